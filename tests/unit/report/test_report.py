"""The form of a report: what stands where, that it needs nothing else, and that strangers' words do no harm in it."""

from __future__ import annotations

import itertools
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.report.document import (
    LONGEST,
    MOST_ROWS,
    Code,
    Curve,
    Document,
    Fact,
    Part,
    Plot,
    Section,
    Table,
    clean,
    described,
)
from dub5.report.drawing import COLUMNS, clock, svg, thinned
from dub5.report.page import html, plot
from dub5.report.text import markdown

HOSTILE = (
    "<script>alert(1)</script>",
    "</title></style><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "`${x}` $\\frac{1}{0}$ | ![x](http://h/x) [a]: http://h",
    "a\x00b\x1b[31mc\u202ed\u200be\ud800f\r\n# g",
    "TITLE BODY",
)
LOAD = Curve("requests", [(0.0, 5.0), (60.0, 9.0), (120.0, 3.0)])
LEVEL = Curve("objective", [(0.0, 4.0)], "level")


def document(
    *parts: Part, title: str = "A report", summary: str = "Because.", plots: list[Plot] | None = None
) -> Document:
    return Document(
        title,
        "bad",
        "It misses.",
        summary,
        [Fact("cost", "4.2", "was 5.1", "good")],
        [Plot("load", "per s", [LOAD, LEVEL])] if plots is None else plots,
        [Section("More", list(parts))],
    )


class _Seen(HTMLParser):
    """Elements in their order, attributes, and that all that was opened is closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile_everywhere(words: str) -> Document:
    return Document(
        words,
        "plain",
        words,
        words,
        [Fact(words, words, words)],
        [Plot(words, words, [Curve(words, LOAD.points), Curve(words, [(0.0, 1.0)], "mark")], across=words)],
        [Section(words, [words, Code(words), Table([words, words], [[words, words]])])],
    )


def test_the_verdict_stands_first_then_the_plots_then_the_rest() -> None:
    page = html(document("In words.", Table(["a", "b"], [["x", "1"]])))
    places = [
        page.index(mark)
        for mark in ("<h1>", "It misses.", "Because.", "4.2", "<svg", "<h2>", "In words.", "<table>")
    ]
    assert places == sorted(places)
    text = markdown(document("In words.", Table(["a", "b"], [["x", "1"]]), Code("a: 1", "yaml")))
    assert text == (
        "# A report\n\n**It misses.** Because.\n\n* cost: 4.2 (was 5.1)\n\n## More\n\nIn words.\n\n"
        "| a | b |\n| --- | --- |\n| x | 1 |\n\n```yaml\na: 1\n```\n"
    )


def test_the_same_report_is_the_same_text() -> None:
    assert html(document()) == html(document())


def test_a_page_needs_nothing_else() -> None:
    page = html(document(Plot("again", "s", [LOAD]), Table(["a"], [["x"]]), Code("a")))
    seen = _Seen(page)
    assert not {"script", "img", "link", "iframe", "a", "form", "object"} & set(seen.tags)
    fetched = {"src", "href", "srcset", "data", "action", "poster"}
    assert not [each for each in seen.attributes if each[0] in fetched]
    assert all(value.startswith("#") for name, value in seen.attributes if name == "xlink:href")
    assert not [each for each in ("@import", "url(", "http-equiv=refresh", "javascript:") if each in page]
    assert "default-src 'none'" in page


def test_a_page_is_for_those_who_read_it_by_ear() -> None:
    page = html(document(Table(["a", "b"], [["x", "1"], ["y", "2"]])))
    seen = _Seen(page)
    assert ("lang", "en") in seen.attributes
    assert (seen.tags.count("h1"), seen.tags.count("h2")) == (1, 1)
    assert {"header", "main", "title"} <= set(seen.tags)
    assert 'aria-label="load, per s. requests: 3 to 9, 3 at the end; objective: 4."' in page
    assert [value for name, value in seen.attributes if name == "scope"] == ["col", "col", "row", "row"]
    names = [value for name, value in seen.attributes if name == "id"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("words", HOSTILE)
def test_words_of_strangers_stay_words(words: str) -> None:
    page = html(hostile_everywhere(words))
    seen, usual = _Seen(page), _Seen(html(hostile_everywhere("usual")))
    assert seen.tags == usual.tags
    assert {name for name, _ in seen.attributes} == {name for name, _ in usual.attributes}
    text = markdown(hostile_everywhere(words))
    fenced = re.sub(r"^(`{3,})\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"(?<!\\)<[a-z/]", fenced)
    assert "](" not in fenced
    rows = [line for line in fenced.splitlines() if line.startswith("| ")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 3, 3]
    for written in (page, text):
        assert not re.search("[\x00-\x09\x0b-\x1f\u200b\u202e]", written)
        written.encode()


def test_a_backslash_does_not_make_code_of_what_follows() -> None:
    assert r"\\\`a\` b" in markdown(document(r"\`a` b"))


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_clean_words_have_one_line_that_can_be_written(words: str) -> None:
    shown = clean(words)
    assert len(shown) == len(words)
    assert len(shown.splitlines()) <= 1
    shown.encode()


def test_a_report_is_bounded_whatever_it_is_given() -> None:
    long = "<" * 10**7
    points = [(float(x), math.sin(x) * x) for x in range(100_000)]
    table = Table(["a", "b"], [[long, "1"]] * 2 + [["x", "2"]] * 2000)
    big = document(
        long, Code("a\n" * 10**6), table, Plot("p", "", [Curve("c", points)]), title=long, summary=long
    )
    page, text = html(big), markdown(big, limit=5_000)
    assert len(page) < 500_000
    assert f"and {2002 - MOST_ROWS} more rows" in page
    assert len(text.encode()) <= 5_000
    assert text.endswith("limit of length.)\n")
    assert len(clean(long)) == LONGEST


def test_a_limit_cuts_no_character_in_two() -> None:
    text = markdown(document("é" * 3000), limit=1000)
    assert len(text.encode()) <= 1000


def test_a_thinned_curve_keeps_each_peak() -> None:
    points = [(float(x), 100.0 if x == 7777 else float(x % 7)) for x in range(60_000)]
    kept = thinned(points)
    assert len(kept) <= 4 * COLUMNS
    assert (7777.0, 100.0) in kept
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept)
    assert thinned(points[:500]) == points[:500]
    assert thinned([(1.0, 2.0)] * 5000)


def test_a_plot_stays_inside_its_frame() -> None:
    drawn = plot(
        Plot("demand", "requests", [Curve("demand", [(0.0, 0.0), (10.0, 1500.0), (20.0, 750.0)])]), "x"
    )
    width, height = (float(each) for each in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)[0])
    [line] = re.findall(r'd="([^"]+)"[^>]*stroke: var\(--c0\)', drawn)
    places = [tuple(map(float, pair.split())) for pair in re.split("[ML]", line)[1:]]
    (_, floor), (middle, top), (end, half) = places
    assert 0 < middle < end < width
    assert 0 < top < half < floor < height
    assert half - top == pytest.approx(floor - half, abs=0.1)
    assert "demand</b>, requests" in drawn
    assert "1.5 k" in drawn
    assert "20 s" in drawn
    assert "stroke: var(--c0)" in svg(Plot("flat", "", [Curve("flat", [(0.0, 0.0)])]), "flat")
    assert ">0.002<" in svg(Plot("low", "", [Curve("low", [(0.0, 0.0), (9.0, 0.002)])]), "low")


def test_looks_that_no_colour_is_needed_for() -> None:
    curves = [
        Curve("present", [(1.0, 0.5)], "mark"),
        Curve("wanted", [(1.0, 0.001), (2.0, 1000.0)], "steps"),
        Curve("tried", [(float(x), 1.0) for x in range(2000)], "dots"),
        Curve("just met", [(0.0, 1.0)], "level"),
        Curve("nothing", []),
    ]
    drawn = plot(Plot("cost", "times", curves, across="replica-hours", times=True), "x")
    assert [
        name for name in ("present", "wanted", "tried", "just met", "replica-hours") if name not in drawn
    ] == []
    assert "#0" not in drawn  # each colour is the page's
    assert drawn.count("<use") < 500
    assert drawn.count("stroke-dasharray") >= 2


@pytest.mark.parametrize(
    ("moment", "step", "began", "shown"),
    [
        (20, 5, 0.0, "20 s"),
        (600, 300, 0.0, "600 s"),
        (5400, 1800, 0.0, "1:30"),
        (172800, 86400, 0.0, "2 d"),
        (0, 300, 1_795_000_200.0, "11:10"),
        (0, 21600, 1_795_003_200.0, "Wed 12:00"),
        (0, 86400, 1_795_003_200.0, "18 Nov"),
    ],
)
def test_time_is_shown_as_long_as_it_is(moment: float, step: float, began: float, shown: str) -> None:
    assert clock(moment, step, began) == shown


def test_a_description_tells_what_is_drawn() -> None:
    assert described(Plot("load", "", [Curve("none", [])])) == "load. ."


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_both_themes_can_be_read() -> None:
    """By WCAG 2.2: 4.5 for text, and for lines 3."""
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in html(document()).split("@media")[:2]]
    assert len(themes) == 2
    for theme, (name, ground) in itertools.product(themes, (("fg", "bg"), ("dim", "bg"), *_TONES, *_LINES)):
        low, high = sorted((_luminance(theme[name]), _luminance(theme[ground])))
        assert (high + 0.05) / (low + 0.05) >= (3 if name.startswith("c") else 4.5), (name, ground)


_TONES = [(name, ground) for name in ("good", "bad", "plain") for ground in ("bg", "panel")]
_LINES = [(f"c{place}", "bg") for place in range(4)]
