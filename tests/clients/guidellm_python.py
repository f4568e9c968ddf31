"""guidellm, which loads a server: it asks for its health and its models first, and then streams.

Two requests at a time, so that the first two are joined. Of the other three the last begins when one of those before it
has ended, so that its answer comes from the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests.clients.asking import GPT, TOGETHER, Row, tell, url

STAND_IN = Path(__file__).parent / "stand_in"
ENVIRONMENT = {
    "PYTHONPATH": str(STAND_IN),
    "HF_HUB_OFFLINE": "1",  # a tokenizer would be fetched; it is not needed where answers tell their tokens
    "GUIDELLM__MAX_WORKER_PROCESSES": "1",
}


def load(provider: str, model: str, folder: Path) -> Row:
    alone, together = (f"By guidellm, of {provider}, {words}" for words in ("alone", TOGETHER))
    row = Row("run", True, provider, {alone: 1, together: 1})
    questions = [together, together, alone, alone, alone]
    (folder / "questions.jsonl").write_text("\n".join(json.dumps({"prompt": each}) for each in questions))
    command = [str(Path(sys.executable).with_name("guidellm")), "run", "--disable-console"]
    command += ["--backend", f"kind=openai_http,target={url()},model={model}"]
    command += ["--data", f"kind=json_file,path={folder / 'questions.jsonl'}"]
    command += ["--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=5"]
    command += ["--output", f"kind=json,path={folder / 'report.json'}"]
    try:
        done = subprocess.run(
            command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        requests = json.loads((folder / "report.json").read_text())["benchmarks"][0]["requests"]
        told = sorted(each["output"] for each in requests["successful"])
        assert told == sorted(f"You said: {each}" for each in questions), requests
    except Exception:  # noqa: BLE001  # whatever it is, it is told
        row.wrong = traceback.format_exc()
    return row


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        tell("guidellm", [load(provider, model, Path(folder)) for provider, model in GPT.items()])
