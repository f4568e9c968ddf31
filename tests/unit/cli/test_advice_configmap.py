"""What is left in the ConfigMap of a Job where things go wrong, and how long an API that is away is waited for."""

from __future__ import annotations

import http.server
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from dub5.advisor.record import BadRecord
from dub5.cli.advice_configmap import LABEL, reason_left, shortened
from dub5.cli.command import Failed
from dub5.cli.kubernetes import OF, Cluster, ConfigMap
from dub5.errors import ConfigError

Json = dict[str, Any]


class Api(http.server.ThreadingHTTPServer):
    """Takes every patch, but for those that `statuses` are answered to first. `of`: whose advice it is for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.patches: list[Json] = []
        self.statuses: list[int] = []
        self.of = "these"

    def place(self, of: str | None = None) -> ConfigMap:
        url = f"http://127.0.0.1:{self.server_address[1]}"
        return ConfigMap("dub5-advice", "chat", lambda: Cluster(url, "token"), of=of)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Api  # type: ignore[assignment]  # the only one that it handles for

    def do_PATCH(self) -> None:
        assert self.headers["authorization"] == "Bearer token"
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.patches.append(body)
        metadata = {"resourceVersion": str(len(self.server.patches)), "annotations": {OF: self.server.of}}
        said = json.dumps({"metadata": metadata}).encode() if status == 200 else b"said"
        self.send_response(status)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as api:
        thread = threading.Thread(target=api.serve_forever)
        thread.start()
        yield api
        api.shutdown()
        thread.join()


def test_an_api_that_is_busy_is_asked_again(api: Api) -> None:
    api.statuses = [503, 429, 500]
    api.place().patch({"verdict": "met"}, pauses=(0.0, 0.0, 0.0))
    assert [patch["data"] for patch in api.patches] == [{"verdict": "met"}]


def test_a_job_writes_only_while_the_advice_is_for_its_values(api: Api) -> None:
    api.place(of="these").patch({"verdict": "met"})
    read, written = api.patches
    assert read == {"metadata": {}}
    assert (written["data"], written["metadata"]["resourceVersion"]) == ({"verdict": "met"}, "1")
    api.of = "those"
    with pytest.raises(Failed, match="of another Job by now"):
        api.place(of="these").patch({"verdict": "met"})
    assert api.patches[2:] == [read]


def test_what_another_has_changed_meanwhile_is_looked_at_again(api: Api) -> None:
    api.statuses = [200, 409]
    api.place(of="these").patch({"verdict": "met"}, pauses=(0.0,))
    assert [patch.get("data") for patch in api.patches] == [None, None, {"verdict": "met"}]


def test_one_that_stays_so_fails_and_one_that_refuses_does_at_once(api: Api) -> None:
    api.statuses = [503, 503, 403]
    with pytest.raises(Failed, match="answered 503: said"):
        api.place().patch({}, pauses=(0.0,))
    with pytest.raises(Failed, match="answered 403: said"):
        api.place().patch({}, pauses=(0.0,))
    assert api.statuses == []
    nowhere = ConfigMap("dub5-advice", "chat", lambda: Cluster("http://127.0.0.1:1"))
    with pytest.raises(Failed, match="cannot reach the Kubernetes API"):
        nowhere.patch({}, pauses=())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Failed("there is nothing"), "none, because there is nothing"),
        (ConfigError("autoscaling.mode: unknown"), "none, because autoscaling.mode: unknown"),
        (BrokenProcessPool("a process"), "advisor.resources"),
        (BadRecord("not told by its caller"), "a defect, BadRecord"),
    ],
)
def test_the_reason_takes_the_place_of_values(api: Api, error: Exception, said: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(type(error)), reason_left(api.place()):
        raise error
    assert signal.getsignal(signal.SIGTERM) is before
    begun, left = api.patches
    assert begun["data"].keys() == {"begun"}
    assert said in left["data"]["verdict"]
    assert [left["data"][key] for key in ("table", "snippet", "schedule")] == [None] * 3
    assert left["metadata"]["labels"] == {LABEL: "none"}


def test_where_the_reason_cannot_be_left_either_the_failure_is_the_first(api: Api) -> None:
    api.statuses = [200, 403]
    with pytest.raises(Failed, match="the first"), reason_left(api.place()):
        raise Failed("the first")


@pytest.mark.parametrize("most", [200, 1000, 4999])
def test_what_is_too_long_is_cut_between_lines_and_says_so(most: int) -> None:
    text = "".join(f"{number} zeile mit ümlaut\n" for number in range(500))
    *kept, note = shortened(text, most).splitlines()
    assert len(shortened(text, most).encode()) <= most
    assert kept == text.splitlines()[: len(kept)]
    assert f"{len(text.encode())} bytes" in note
    assert shortened(text, len(text.encode())) == text


def test_one_line_that_is_too_long_is_left_out() -> None:
    assert shortened("x" * 1000, 200).startswith("# …")
