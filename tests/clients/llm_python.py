"""Simon Willison's `llm`, which learns of models as its users do: in extra-openai-models.yaml of its own folder.

Each command is a process of its own, which a server that has imported `llm` already makes: else it would be imported
for each, and that takes longer than all else.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from tests.clients.asking import GPT, call, filled, main, url

SCHEMA = json.dumps(
    {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
)
WEATHER = 'def weather(city: str) -> str:\n    """Of a city."""\n    return f"It rains in {city}"\n'


def llm(*arguments: str) -> str:
    """With --no-log: what is logged is a database of its own, which two at once cannot write."""
    with tempfile.NamedTemporaryFile() as printed:
        process = processes.Process(target=command, args=(arguments, printed.name))
        process.start()
        process.join()
        output = Path(printed.name).read_text().strip()
        assert process.exitcode == 0, output
        return output


def command(arguments: tuple[str, ...], printed: str) -> None:
    """What the program `llm` does."""
    from llm.cli import cli  # noqa: PLC0415  # where the processes are made

    with Path(printed).open("w") as sys.stdout:
        cli(arguments, standalone_mode=False)


@call("llm --no-stream")
def whole(model: str, text: str) -> object:
    return llm("--no-log", "-m", f"dub5-{model}", "--no-stream", text)


@call("llm", streamed=True)
def streamed(model: str, text: str) -> object:
    return llm("--no-log", "-m", f"dub5-{model}", text)


@filled("llm --schema", streamed=True)
def schema(model: str, text: str) -> object:
    return json.loads(llm("--no-log", "-m", f"dub5-{model}", "--schema", SCHEMA, text))


@call("llm --functions", streamed=True, steps=2)
def tools(model: str, text: str) -> object:
    return llm("--no-log", "-m", f"dub5-{model}", "--functions", WEATHER, text)


@call("llm openai endpoint --responses", streamed=True)
def endpoint_by_responses(model: str, text: str) -> object:
    return llm("openai", "endpoint", f"{url()}/v1", text, "-m", model, "--responses")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["LLM_USER_PATH"] = home
        models = [
            {
                "model_id": f"dub5-{model}",
                "model_name": model,
                "api_base": f"{url()}/v1",
                "supports_schema": True,
                "supports_tools": True,
            }
            for model in GPT.values()
        ]
        (Path(home) / "extra-openai-models.yaml").write_text(json.dumps(models))
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(
            ["llm.cli", "openai.resources.chat", "openai.resources.responses", "httpcore2"]
        )
        main("llm")
