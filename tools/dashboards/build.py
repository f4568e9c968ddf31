"""dashboards.yaml as JSON that Grafana reads, by Grafana's own grafana-foundation-sdk.

`$namespace` and `$job` are variables of the dashboards, `$__rate_interval` and `$__range` are Grafana's own.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import yaml
from grafana_foundation_sdk.builders import common as look
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

Kind = Literal["lines", "number", "states"]


class Panel(msgspec.Struct, frozen=True):
    """One panel, as dashboards.yaml explains it."""

    title: str
    unit: str
    description: str
    guide: str
    queries: dict[str, str]
    kind: Kind = "lines"
    limit: int | float | None = None
    states: tuple[str, ...] = ()


class Row(msgspec.Struct, frozen=True):
    """Panels under a heading."""

    row: str
    panels: list[Panel]
    across: int = 3


class Dashboard(msgspec.Struct, frozen=True):
    """`name` is the file's and part of the address."""

    name: str
    title: str
    description: str
    rows: list[Row]

    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


FOLDER = "deploy/helm/dub5/dashboards"

DOCUMENTS = "https://example.com/dub5/docs"
"""Where docs is to be read. It is not published: the chart puts `monitoring.dashboards.documents` in its place."""

_WORDS = (
    (re.compile(r"<<(.+?) // (.+?)>>", re.DOTALL), r"((\1) or 0 * (\2)) / ((\2) > 0)"),
    (re.compile(r"\$ours"), 'namespace=~"$namespace",job=~"$job"'),
    (re.compile(r"\$chats"), 'route=~"/v1/(chat/completions|completions|messages|responses)"'),
    (re.compile(r"\$operator"), 'namespace=~"$namespace"'),
)
"""What queries of dashboards.yaml are written with, and what it stands for."""


def expression(query: str) -> str:
    """A query of dashboards.yaml in PromQL."""
    for word, meaning in _WORDS:
        query = word.sub(meaning, query)
    return query


def _read() -> list[Dashboard]:
    text = Path(__file__).with_name("dashboards.yaml").read_text(encoding="utf-8")
    return [
        msgspec.convert({"name": name, **table}, Dashboard) for name, table in yaml.safe_load(text).items()
    ]


DASHBOARDS = _read()

_TRACED = re.compile(
    r"histogram_quantile\(.*\bdub5_"
    r"(http_request_duration|http_time_to_first_byte|time_to_first_token|provider_duration|provider_time_to_first_token)"
    r"_seconds_bucket{"
)
"""Queries of histograms whose buckets carry exemplars."""

_COLUMNS = 24
_HEIGHTS = {"lines": 8, "number": 4, "states": 8}
_GOOD, _BAD, _BETWEEN = "green", "red", "orange"
_SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
_AnyPanel = timeseries.Panel | stat.Panel | statetimeline.Panel


def guide(panel: Panel) -> str:
    """What to read about a panel: a path in docs."""
    return panel.guide if panel.guide.endswith(".md") else f"runbooks/{panel.guide}.md"


def files() -> dict[str, Callable[[], str]]:
    """What `make generate` writes."""
    return {f"{FOLDER}/{each.name}.json": functools.partial(written, each) for each in DASHBOARDS}


def written(table: Dashboard) -> str:
    """One dashboard as JSON."""
    return JSONEncoder(indent=1, ensure_ascii=False, sort_keys=True).encode(_dashboard(table)) + "\n"


def _dashboard(table: Dashboard) -> dashboard.Dashboard:
    made = (
        build.Dashboard(table.title)
        .uid(f"dub5-{table.name}")
        .description(table.description)
        .tags(["dub5"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .variables(_variables())
        .link(_others())
    )
    number = 0
    for row in table.rows:
        number += 1
        made.with_row(build.Row(row.row).id(number))
        for panel in row.panels:
            number += 1
            made.with_panel(_panel(panel).id(number).span(_COLUMNS // row.across))
    return _without_intervals(made.build())


def _without_intervals(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """The library gives every variable what only those of an interval may have, as Grafana's schema says."""
    for variable in made.templating.list_val or []:
        variable.auto = variable.auto_min = variable.auto_count = None
    return made


def _others() -> build.DashboardLink:
    kind = dashboard.DashboardLinkType.DASHBOARDS
    return build.DashboardLink("DUB5").type(kind).tags(["dub5"]).keep_time(True).include_vars(True)


def _variables() -> list[Builder[dashboard.VariableModel]]:
    return [
        build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        _choice("namespace", "Namespace", "label_values(dub5_build_info, namespace)"),
        _choice("job", "Job", 'label_values(dub5_build_info{namespace=~"$namespace"}, job)'),
        build.TextBoxVariable("documents").label("Where runbooks are").default_value(DOCUMENTS),
    ]


def _choice(name: str, label: str, query: str) -> build.QueryVariable:
    """All of them by default, also series that have no such label."""
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(panel: Panel) -> _AnyPanel:
    made = (
        _KINDS[panel.kind](panel)
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(_SOURCE)
        .height(_HEIGHTS[panel.kind])
        .links([_link(panel)])
    )
    for letter, (legend, query) in zip(string.ascii_uppercase, panel.queries.items(), strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(expression(query)).legend_format(legend).range()
        if _TRACED.match(expression(query)):
            target.exemplar(True)
        made.with_target(target)
    return made


def _link(panel: Panel) -> build.DashboardLink:
    what = "What it means" if panel.guide.endswith(".md") else "What to do"
    return (
        build.DashboardLink(what)
        .type(dashboard.DashboardLinkType.LINK)
        .url(f"${{documents}}/{guide(panel)}")
        .target_blank(True)
    )


def _lines(panel: Panel) -> _AnyPanel:
    made = timeseries.Panel().fill_opacity(8).show_points(common.VisibilityMode.NEVER).axis_soft_min(0)
    made.legend(_legend(show=True)).tooltip(look.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    if panel.limit is not None:
        style = look.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        made.thresholds(_thresholds((None, "transparent"), (panel.limit, _BAD))).thresholds_style(style)
    return made


def _number(panel: Panel) -> _AnyPanel:
    """The last value; red below the limit."""
    made = stat.Panel().reduce_options(look.ReduceDataOptions().calcs(["lastNotNull"]))
    if panel.limit is None:
        return made.color_mode(common.BigValueColorMode.NONE)
    return made.thresholds(_thresholds((None, _BAD), (panel.limit, _GOOD)))


def _states(panel: Panel) -> _AnyPanel:
    """Worse the higher, but where there are only no and yes."""
    colours = (_BAD, _GOOD) if len(panel.states) == len(("no", "yes")) else (_GOOD, _BETWEEN, _BAD)
    words = {
        str(value): dashboard.ValueMappingResult(text=word, color=colour, index=value)
        for value, (word, colour) in enumerate(zip(panel.states, colours, strict=True))
    }
    return statetimeline.Panel().mappings([dashboard.ValueMap(words)]).legend(_legend(show=False))


_KINDS: dict[Kind, Callable[[Panel], _AnyPanel]] = {"lines": _lines, "number": _number, "states": _states}


def _legend(*, show: bool) -> look.VizLegendOptions:
    bottom = look.VizLegendOptions().placement(common.LegendPlacement.BOTTOM)
    return bottom.display_mode(common.LegendDisplayMode.LIST).show_legend(show)


def _thresholds(*steps: tuple[float | None, str]) -> build.ThresholdsConfig:
    made = [dashboard.Threshold(value=value, color=colour) for value, colour in steps]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)
