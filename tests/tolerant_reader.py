"""What a tolerant client reads from the chunks of a stream, or from a whole answer: a reference, and no code of ours.

It knows only what a reader needs: texts, tool calls and ends. It is slow and plain on purpose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


def read_stream(chunks: Iterable[Json]) -> dict[int, Json]:
    """Each choice by its index."""
    answer: dict[int, Json] = {}
    for chunk in chunks:
        for position, choice in enumerate(chunk.get("choices") or []):
            index = position if choice.get("index") is None else int(choice["index"])
            read = answer.setdefault(index, _nothing_yet())
            _read_delta(read, choice.get("delta") or choice.get("message") or {})
            end = choice.get("finish_reason")
            if isinstance(end, str) and end not in {"", "null"}:
                read["end"] = end
    return {index: _finished(read) for index, read in answer.items()}


def read_whole(completion: Json) -> dict[int, Json]:
    """The same of a whole answer."""
    return read_stream([completion])


def read_events(body: bytes) -> dict[int, Json]:
    """The same of the bytes that a client of ours gets; they have to end with `[DONE]`."""
    *events, done, nothing = body.decode().split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return read_stream(json.loads(event.removeprefix("data: ")) for event in events)


def _nothing_yet() -> Json:
    return {"end": None, "calls": [], "function": None, "audio": None, **dict.fromkeys(TEXTS, "")}


def _read_delta(read: Json, delta: Json) -> None:
    for name in TEXTS:
        read[name] += _text(delta.get(name))
    for number, part in enumerate(delta.get("tool_calls") or []):
        _read_call(read["calls"], part, number)
    if delta.get("function_call"):
        call = read["function"] = read["function"] or {"name": "", "arguments": ""}
        call["name"] = call["name"] or delta["function_call"].get("name") or ""
        call["arguments"] += delta["function_call"].get("arguments") or ""
    if delta.get("audio"):
        audio = read["audio"] = read["audio"] or {"id": "", "data": "", "transcript": ""}
        audio["id"] = audio["id"] or delta["audio"].get("id") or ""
        audio["data"] += delta["audio"].get("data") or ""
        audio["transcript"] += delta["audio"].get("transcript") or ""


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(part.get("text", "") for part in value)
    return "" if value is None else str(value)


def _read_call(calls: list[Json], part: Json, number: int) -> None:
    """The part goes to the call with its id, else to the last with its index, else to the last of all."""
    id_ = part.get("id") or ""
    index = None if part.get("index") is None else int(part["index"])
    inner = part.get("function") or part.get("custom") or {}
    with_id = [call for call in calls if id_ and call["id"] == id_]
    with_index = [call for call in calls if index is None or call["index"] == index]
    if with_id and (index is None or with_id[-1]["index"] == index):
        call = with_id[-1]
    elif with_index and not (id_ and with_index[-1]["id"]):
        call = with_index[-1]
    else:
        call = {"id": "", "index": index, "name": "", "said": "", "custom": "custom" in part}
        calls.append(call)
    call["id"] = call["id"] or id_
    call["name"] = call["name"] or inner.get("name") or ""
    call["said"] += inner.get("arguments") or inner.get("input") or ""


def _finished(read: Json) -> Json:
    """Two halves of a character are one, and who reads does not care how calls were counted."""
    calls = [{name: value for name, value in call.items() if name != "index"} for call in read["calls"]]
    mended: Json = json.loads(_mended(json.dumps({**read, "calls": calls})))
    return mended


def _mended(written: str) -> str:
    """Of JSON in ASCII: halves of a character that stand alone are replaced; `json` joins the others."""
    pair = r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}"
    return re.sub(rf"({pair})|\\ud[89a-f][0-9a-f]{{2}}", lambda found: found[1] or r"\ufffd", written)
