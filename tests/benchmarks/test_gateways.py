"""What `benchmarks.gateways` asks, and what it does with what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import httptools
import pytest

from benchmarks.figures import Figure
from benchmarks.gateways import questions
from benchmarks.gateways.record import fill_in


class Request:
    """What a parser of HTTP makes of bytes."""

    def __init__(self, data: bytes) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


@pytest.mark.parametrize("protocol", ["chat", "messages", "responses"])
def test_twenty_clients_ask_whole_requests(protocol: Literal["chat", "messages", "responses"]) -> None:
    asked = questions.hits(protocol, kinds=30)
    requests = [Request(asked.example("127.0.0.1:8000", head)) for head in range(len(asked.heads))]
    assert len({tuple(request.headers) for request in requests}) >= 18  # some differ by a trace only
    for request in requests:
        assert request.complete == 1
        assert request.headers["host"] == "127.0.0.1:8000"
        assert questions.KEY in request.headers.get("authorization", "") + request.headers.get(
            "x-api-key", ""
        )
        assert json.loads(request.body)["model"] == "small"
    assert len({request.body for request in requests}) == len(requests) == 20


def test_a_question_is_spelt_in_several_ways() -> None:
    asked = questions.hits(kinds=2)
    first, second = asked.bodies[: asked.spellings], asked.bodies[asked.spellings :]
    assert len(set(first)) == asked.spellings >= 4
    assert all(json.loads(body) == json.loads(first[0]) for body in first)
    assert json.loads(second[0]) != json.loads(first[0])


def test_a_number_fills_its_holes_in_head_and_body() -> None:
    asked = questions.numbered(first=41, headers={"authorization": f"Bearer key-{0:012d}"})
    request = Request(asked.example("host"))
    assert request.headers["authorization"] == "Bearer key-000000000041"
    assert json.loads(request.body)["messages"][0]["content"] == "question 000000000041"


def test_figures_of_some_rows_leave_the_others_as_they_are(tmp_path: Path) -> None:
    document = tmp_path / "report.md"
    other = "| beside | row | CPU |\n|---|---|---|\n| a | b | c |\n"
    head = f"{other}\nMeasured with old; no other load.\n\n| what | bar | measured |\n|---|---|---|\n"
    document.write_text(f"{head}| a | 1 | 2 |\n| b | 1 | 2 |\n\nafter\n")
    some = [Figure("b", "1", "3"), Figure("b", "2", "4", good=False)]
    fill_in(document, {"python": "3"}, some, whole=False)
    assert document.read_text() == f"{head}| a | 1 | 2 |\n| b | 1 | 3 |\n| b | 2 | 4 **missed** |\n\nafter\n"
    fill_in(document, {"python": "3"}, [Figure("b", "1", "5")], whole=True)
    assert document.read_text() == f"{head.replace('old', 'python 3')}| b | 1 | 5 |\n\nafter\n"
