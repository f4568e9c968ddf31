"""guidellm, which loads a server: it asks for its health and its models first, and then streams.

Two requests at a time, so that the first two are joined. Of the other three the last begins when one of those before it
has ended, so that its answer comes from the cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from tests.clients.asking import GPT, TOGETHER, Row, print_rows, url

STAND_IN = str(Path(__file__).parent / "stand_in")


def load(provider: str, model: str, folder: Path) -> Row:
    from guidellm.__main__ import cli  # noqa: PLC0415  # with what its environment says

    alone, together = (f"By guidellm, of {provider}, {words}" for words in ("alone", TOGETHER))
    row = Row("run", True, provider, {alone: 1, together: 1})
    questions = [together, together, alone, alone, alone]
    asked, report = folder / "questions.jsonl", folder / "report.json"
    asked.write_text("\n".join(json.dumps({"prompt": each}) for each in questions))
    arguments = ["run", "--disable-console", "--output", f"kind=json,path={report}"]
    arguments += ["--backend", f"kind=openai_http,target={url()},model={model}"]
    arguments += ["--data", f"kind=json_file,path={asked}"]
    arguments += ["--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=5"]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            cli(arguments, standalone_mode=False)
        requests = json.loads(report.read_text())["benchmarks"][0]["requests"]
        answers = sorted(each["output"] for each in requests["successful"])
        assert answers == sorted(f"You said: {each}" for each in questions), requests
    except Exception:  # noqa: BLE001  # whatever it is, it is printed
        row.wrong = traceback.format_exc()
    return row


if __name__ == "__main__":
    sys.path.insert(0, STAND_IN)
    os.environ.update(
        PYTHONPATH=STAND_IN,  # of the processes that it starts
        HF_HUB_OFFLINE="1",  # a tokenizer would be fetched; it is not needed where answers count their tokens
        GUIDELLM__MAX_WORKER_PROCESSES="1",
    )
    with tempfile.TemporaryDirectory() as home:
        print_rows("guidellm", [load(provider, model, Path(home)) for provider, model in GPT.items()])
