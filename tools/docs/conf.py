"""The site, which `make docs` builds from the Markdown of the repository.

Everything here works without a network, and every doubt is an error: a link to a page, heading or file that is not
there, a page that the navigation does not reach, a picture that is no valid Mermaid or has no text for those who
cannot see it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import latex2mathml.converter
import mermaidx
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

from tools import release as releases

project = "DUB5"
version = release = releases.version()
author = project_copyright = "the authors of DUB5"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/**"),
    *("deploy/helm/dub5/README.md", "deploy/k6/data/README.md", "examples/logs/README.md"),
    "benchmarks/replay/DATA.md",
]
exclude_patterns = [".*", "backend", "operator", "tests"]  # is not walked through
html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"DUB5 {release}"
html_extra_path = ["index.html"]
html_copy_source = False
html_css_files = ["site.css"]
html_static_path = ["static"]
myst_heading_anchors = 4  # as GitHub makes them
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["misc.highlighting_failure"]  # examples in JSON leave things out with "…"

NAVIGATION = {
    "docs/index": {
        "Install": [
            "Begin here </README>",
            "install",
            "secrets",
            "sizing",
            "connections",
            "/deploy/helm/dub5/README",
        ],
        "Tune": [
            *("configuration", "caching", "adaptive-ttl", "autoscaling", "autoscale", "scalability"),
            "load-testing",
        ],
        "Operate": [
            *("alerts", "incidents", "rehearsal", "dashboards", "metrics", "logs", "known-limits"),
            *("/SECURITY", "/CHANGELOG"),
        ],
        "Extend": [
            "api",
            "responses",
            "messages",
            "completions",
            "errors",
            "architecture",
            "async-io",
            "/CONTRIBUTING",
            "adr/README",
            "reports/README",
        ],
    },
    "docs/incidents": {"Runbooks": ["runbooks/*"]},
    "docs/load-testing": {"Arrivals": ["/deploy/k6/data/README"]},
    "docs/logs": {"Collectors": ["/examples/logs/README"]},
    "docs/adr/README": {"Decisions": ["0*"]},
    "docs/reports/README": {"Reports": ["[!Rl]*", "load/README", "/benchmarks/replay/DATA"]},
    "docs/reports/load/README": {"Runs": ["[!R]*"]},
}
"""What each of these pages leads to. It is not in the pages: they are read elsewhere too."""

_log = getLogger(__name__)
_TITLE = re.compile(r"^\s*accTitle: *(.+)$", re.MULTILINE)


def _navigate(_: Sphinx, page: str, source: list[str]) -> None:
    for caption, pages in NAVIGATION.get(page, {}).items():
        options = f":caption: {caption}\n:hidden:\n:glob:\n"
        source[0] += f"\n\n```{{toctree}}\n{options}\n" + "\n".join(pages) + "\n```\n"


def _draw(app: Sphinx, doctree: nodes.document) -> None:
    """Put a picture in the place of each block of Mermaid, drawn here: readers need no script and no network."""
    folder = Path(app.outdir) / "_images"
    folder.mkdir(exist_ok=True)
    up = "../" * app.env.docname.count("/")
    for block in list(doctree.findall(nodes.literal_block)):
        if block.get("language") != "mermaid":
            continue
        source = block.astext()
        name = f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.svg"
        title = _TITLE.search(source)
        try:
            mermaidx.render(source, theme="neutral").save(str(folder / name))
        except RuntimeError as error:
            _log.warning("no picture: %s", error, location=block)
        if title is None:
            _log.warning("a picture has no line `accTitle: …`", location=block)
        else:
            image = f'<img class="diagram" src="{up}_images/{name}" alt="{title[1]}">'
            block.replace_self(nodes.raw("", image, format="html"))


def _formula(display: str) -> Callable[[Any, Any], None]:
    """What shows a formula, in MathML: browsers know it, so no script is fetched."""

    def visit(writer: Any, node: nodes.Element) -> None:
        writer.body.append(latex2mathml.converter.convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit


def setup(app: Sphinx) -> None:
    app.connect("source-read", _navigate)
    app.connect("doctree-read", _draw)
    app.add_html_math_renderer("mathml", (_formula("inline"), None), (_formula("block"), None))
