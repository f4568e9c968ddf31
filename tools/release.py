"""A release: its version, in every place, and what is published.

    python -m tools.release set 0.2.0          write the version into every place, and date what is unreleased
    python -m tools.release check v0.2.0       fail unless every place, the tag and the changelog agree
    python -m tools.release notes              what the changelog says of this version
    python -m tools.release build IMAGE        wheel, sources and chart into dist/; the chart takes IMAGE
    python -m tools.release push-image IMAGE   build IMAGE for two architectures and push it, with docker buildx
    python -m tools.release push-chart PLACE   push the chart of dist/ to PLACE, such as oci://registry.example/charts

The source of the version is pyproject.toml. The last two print `digest=sha256:…`, which is what provenance is for.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from testkit.commands import parser
from testkit.programs import which

ROOT = Path(__file__).parents[1]
CHART = Path("deploy/helm/dub5")
DIST = ROOT / "dist"
PLATFORMS = "linux/amd64,linux/arm64"
LOCAL_IMAGE = r"localhost/dub5:(\d+\.\d+\.\d+)"
PLACES = [
    ("pyproject.toml", r'(?m)^version = "([^"]+)"$'),
    ("uv.lock", r'(?m)^name = "dub5"\nversion = "([^"]+)"$'),
    (f"{CHART}/Chart.yaml", r"(?m)^version: (\S+)$"),
    (f"{CHART}/Chart.yaml", r'(?m)^appVersion: "([^"]+)"$'),
    (f"{CHART}/README.md", LOCAL_IMAGE),
    ("README.md", LOCAL_IMAGE),
    ("docs/install.md", LOCAL_IMAGE),
]
"""Files, and what finds the version in them: everywhere but in CHANGELOG.md."""
_UNRELEASED = "## [Unreleased]\n"


class Wrong(Exception):
    """A release that must not be made; the message says why."""


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def disagreeing(expected: str) -> list[str]:
    """What does not name this version, a line each."""
    found = [(file, set(re.findall(pattern, _read(file)))) for file, pattern in PLACES]
    return [
        f"{file} says {' and '.join(sorted(of)) or 'none'}, not {expected}"
        for file, of in found
        if of != {expected}
    ]


def set_version(new: str, today: dt.date) -> None:
    if not re.fullmatch(r"\d+\.\d+\.\d+", new):
        raise Wrong(f"{new} is not of the form 1.2.3, which Python and Helm both know")
    changelog = _read("CHANGELOG.md")
    if _UNRELEASED not in changelog:
        raise Wrong(f"CHANGELOG.md has no line {_UNRELEASED.strip()}")
    for file, pattern in PLACES:
        text = re.sub(pattern, lambda found: found[0].replace(found[1], new), _read(file))
        (ROOT / file).write_text(text, encoding="utf-8")
    dated = changelog.replace(_UNRELEASED, f"{_UNRELEASED}\n## [{new}] - {today.isoformat()}\n", 1)
    (ROOT / "CHANGELOG.md").write_text(dated, encoding="utf-8")


def notes(of: str) -> str:
    found = re.search(rf"(?ms)^## \[{re.escape(of)}\][^\n]*\n(.*?)(?=^## |\Z)", _read("CHANGELOG.md"))
    if found is None or not found[1].strip():
        raise Wrong(f"CHANGELOG.md says nothing of {of}")
    return found[1].strip() + "\n"


def check(tag: str) -> None:
    faults = disagreeing(version())
    if tag != f"v{version()}":
        faults.append(f"the tag is {tag}, the version {version()}")
    if faults:
        raise Wrong("; ".join(faults))
    notes(version())


def build(image: str) -> None:
    """A published chart finds its image without being told where it is."""
    shutil.rmtree(DIST, ignore_errors=True)
    _run(str(Path(sys.executable).parent / "uv"), "build", "--quiet", "--out-dir", str(DIST))
    (DIST / ".gitignore").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(ROOT / CHART, Path(folder) / CHART.name))
        values = (copy / "values.yaml").read_text(encoding="utf-8")
        named = values.replace("repository: localhost/dub5\n", f"repository: {image.lower()}\n")
        if named == values:
            raise Wrong("values.yaml has no image.repository of localhost/dub5")
        (copy / "values.yaml").write_text(named, encoding="utf-8")
        _run(_helm(), "package", str(copy), "--destination", str(DIST))


def push_image(image: str) -> str:
    """The digest of what was pushed, of all architectures together."""
    registry, _, repository = image.lower().partition("/")
    labels = {"version": version()}
    if registry == "ghcr.io":
        labels["source"] = f"https://github.com/{repository}"
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder) / "metadata.json"
        _run(
            *("docker", "buildx", "build", "--push", "--platform", PLATFORMS),
            *("--provenance", "mode=max", "--sbom", "true", "--metadata-file", str(metadata)),
            *(f"--label=org.opencontainers.image.{name}={value}" for name, value in labels.items()),
            *("--tag", f"{registry}/{repository}:{version()}", str(ROOT)),
        )
        return str(json.loads(metadata.read_text(encoding="utf-8"))["containerimage.digest"])


def push_chart(place: str) -> str:
    done = _run(_helm(), "push", str(DIST / f"dub5-{version()}.tgz"), place.lower())
    found = re.search(r"Digest: (sha256:[0-9a-f]{64})", done)
    if found is None:
        raise Wrong(f"helm push named no digest: {done}")
    return found[1]


def _run(*command: str) -> str:
    """Its output; what a program says beside it is shown as it comes, or at once where it fails."""
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    sys.stderr.write(done.stdout)
    if done.returncode:
        raise Wrong(f"{Path(command[0]).name} {command[1]} failed")
    return done.stdout


def _helm() -> str:
    helm = which("helm")
    if helm is None:
        raise Wrong("there is no helm on PATH, nor one that tools/cluster/cluster has built")
    return helm


def _read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def main() -> int:
    options = parser(__doc__)
    commands = options.add_subparsers(dest="command", required=True)
    arguments = {
        "set": "VERSION",
        "check": "TAG",
        "build": "IMAGE",
        "push-image": "IMAGE",
        "push-chart": "PLACE",
    }
    for command, argument in arguments.items():
        commands.add_parser(command).add_argument("given", metavar=argument)
    commands.add_parser("notes")
    chosen = options.parse_args()
    try:
        match chosen.command:
            case "set":
                set_version(chosen.given, dt.datetime.now(dt.UTC).date())
            case "check":
                check(chosen.given)
            case "notes":
                sys.stdout.write(notes(version()))
            case "build":
                build(chosen.given)
            case "push-image":
                print(f"digest={push_image(chosen.given)}")
            case "push-chart":
                print(f"digest={push_chart(chosen.given)}")
    except Wrong as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
