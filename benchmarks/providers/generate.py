"""Chat Completions requests as clients write them: mostly ordinary, each with one to four odd things.

    for request in requests(seed=1, count=10_000):
        request.kinds    # what is odd about it
        request.model    # the upstream model of the route
        request.body     # what our own `chat.request.parse` lets through

The same seed makes the same requests. What most providers cannot do at all (spoken answers, several choices, …) is as
rare as it is among real requests: its kinds have a small weight.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

MODELS = (
    *("claude-3-haiku-20240307", "claude-3-7-sonnet-20250219"),
    *("claude-sonnet-4-20250514", "claude-opus-4-1-20250805", "claude-opus-4-5", "claude-sonnet-4-5"),
    *(
        "claude-haiku-4-5-20251001",
        "claude-sonnet-4-6",
        "claude-opus-4-6",
        "claude-opus-4-7",
        "claude-opus-4-8",
    ),
    *("claude-sonnet-5", "claude-opus-5", "claude-fable-5", "claude-haiku-5-5", "claude-sonnet-5-5"),
    *("claude-opus-5-5", "claude-fable-5-2", "my-own-deployment"),
)

_BLANKS = ("", " ", "\n", "\t\n ", "\u2003")
_WORDS = (
    "rain",
    "Oslo",
    "the tide",
    "ahoy",
    "Ähre",
    "日本",
    "🎈",
    "42",
    "`code`",
    "why?",
    "  spaced  ",
    "\n",
)
_TEXTS = ("What is the weather?", "Go on.", "Sum it up.", "Write a haiku.", "x", "Ünïcode 🎈", "line\nline\n")


@dataclass
class Request:
    """One generated request; `kinds` say what is odd about it."""

    kinds: list[str]
    model: str
    body: Json


class Draft:
    """A request in the making."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.body: Json = {"model": "m", "messages": []}
        self.messages: list[Json] = self.body["messages"]

    def text(self) -> str:
        return self.rng.choice(_TEXTS) + " " + " ".join(self.rng.choices(_WORDS, k=self.rng.randrange(6)))

    def blank(self) -> str:
        return self.rng.choice(_BLANKS)

    def insert(self, message: Json) -> None:
        """Anywhere among the messages."""
        self.messages.insert(self.rng.randrange(len(self.messages) + 1), message)

    def tools(self) -> list[Json]:
        """The tools of the request, with at least one in them."""
        listed: list[Json] = self.body.setdefault("tools", [])
        if not listed:
            listed.append(function("weather", schema(self.rng)))
        return listed

    def part(self, part: Json) -> None:
        """A part in one of the user's messages."""
        if all(message["role"] != "user" for message in self.messages):
            self.messages.append({"role": "user", "content": self.text()})
        users = [message for message in self.messages if message["role"] == "user"]
        message = self.rng.choice(users)
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else (content or [])
        parts.insert(self.rng.randrange(len(parts) + 1), part)
        message["content"] = parts


Change = Callable[[Draft], None]
KINDS: dict[str, tuple[float, Change]] = {}


def kind(name: str, weight: float = 1.0) -> Callable[[Change], Change]:
    """A way to be odd; `weight` is how common it is beside the others."""

    def add(change: Change) -> Change:
        KINDS[name] = (weight, change)
        return change

    return add


def requests(*, seed: int, count: int) -> Iterator[Request]:
    rng = random.Random(seed)
    names = list(KINDS)
    weights = [KINDS[name][0] for name in names]
    for _ in range(count):
        draft = Draft(rng)
        _converse(draft)
        chosen = list(dict.fromkeys(rng.choices(names, weights, k=rng.randint(1, 4))))
        for name in chosen:
            KINDS[name][1](draft)
        if rng.random() < 0.3:
            draft.body["stream"] = True
        yield Request(chosen, rng.choice(MODELS), json.loads(json.dumps(draft.body)))


def _converse(draft: Draft) -> None:
    rng = draft.rng
    if rng.random() < 0.6:
        draft.messages.append({"role": "system", "content": "You are a helpful assistant."})
    for _ in range(rng.randrange(3)):
        draft.messages.append({"role": "user", "content": draft.text()})
        draft.messages.append({"role": "assistant", "content": draft.text()})
    draft.messages.append({"role": "user", "content": draft.text()})


def function(name: str, parameters: Any, **more: Any) -> Json:
    return {
        "type": "function",
        "function": {"name": name, "description": "d", "parameters": parameters, **more},
    }


def call(name: str, arguments: Any, id: Any) -> Json:  # noqa: A002  # OpenAI's name
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


# --- Histories of agents ---


def _rounds(
    draft: Draft, ids: Callable[[int], str], arguments: Callable[[], Any] = lambda: "{}"
) -> list[list[Json]]:
    """Some rounds of calls and their results, at the end of the conversation; returns the messages of each."""
    rounds = []
    number = 0
    for _ in range(draft.rng.randint(1, 3)):
        calls = []
        for _ in range(draft.rng.randint(1, 3)):
            calls.append(call(draft.rng.choice(("weather", "search")), arguments(), ids(number)))
            number += 1
        said: Any = draft.rng.choice((None, "", "\n", "Let me look.", [{"type": "text", "text": "Hm."}]))
        results = [{"role": "tool", "tool_call_id": each["id"], "content": draft.text()} for each in calls]
        rounds.append([{"role": "assistant", "content": said, "tool_calls": calls}, *results])
    if draft.rng.random() < 0.7:
        draft.tools()
    return rounds


@kind("history: calls and results in order", 3)
def _in_order(draft: Draft) -> None:
    for messages in _rounds(draft, lambda n: f"call_{n}"):
        draft.messages.extend(messages)
    if draft.rng.random() < 0.5:
        draft.messages.append({"role": "user", "content": draft.text()})


@kind("history: results out of order")
def _shuffled(draft: Draft) -> None:
    for head, *results in _rounds(draft, lambda n: f"call_{n}"):
        draft.rng.shuffle(results)
        draft.messages.extend([head, *results])


@kind("history: a user's message between call and result")
def _interrupted(draft: Draft) -> None:
    for head, *results in _rounds(draft, lambda n: f"call_{n}"):
        draft.messages.extend([head, {"role": "user", "content": "Hurry."}, *results])


@kind("history: results missing")
def _unanswered(draft: Draft) -> None:
    for head, *results in _rounds(draft, lambda n: f"call_{n}"):
        kept = [each for each in results if draft.rng.random() < 0.4]
        draft.messages.extend([head, *kept])
    if draft.rng.random() < 0.5:
        draft.messages.append({"role": "user", "content": draft.text()})


@kind("history: results twice or without a call")
def _orphans(draft: Draft) -> None:
    for head, *results in _rounds(draft, lambda n: f"call_{n}"):
        draft.messages.extend([head, *results, draft.rng.choice(results)])
    draft.insert(
        {"role": "tool", "tool_call_id": "call_lost", "content": draft.rng.choice(("lost", "", " "))}
    )


@kind("history: odd ids")
def _odd_ids(draft: Draft) -> None:
    odd = ("call:%d", "fc.%d|x", "a b %d", "", "ü%d", "call_%d" + "x" * 80, "chatcmpl-tool-%d", "/%d/")
    pattern = draft.rng.choice(odd)
    for messages in _rounds(draft, lambda n: pattern % n if "%d" in pattern else pattern):
        draft.messages.extend(messages)


@kind("history: ids missing", 0.5)
def _no_ids(draft: Draft) -> None:
    for head, *results in _rounds(draft, lambda n: f"call_{n}"):
        for each in head["tool_calls"]:
            del each["id"]
        for each in results:
            each["tool_call_id"] = draft.rng.choice((None, "", "call_0"))
        draft.messages.extend([head, *results])


@kind("history: ids used again")
def _same_ids(draft: Draft) -> None:
    for messages in _rounds(draft, lambda n: f"call_{n % 2}"):
        draft.messages.extend(messages)


@kind("history: arguments that are no object")
def _odd_arguments(draft: Draft) -> None:
    odd = ("null", "[1]", '"x"', '{"a": 1', "", " ", "not json", '{"a":1}{"b":2}', None, "7", {"a": 1})
    for messages in _rounds(draft, lambda n: f"call_{n}", lambda: draft.rng.choice(odd)):
        draft.messages.extend(messages)


@kind("history: parallel calls as messages of their own")
def _split(draft: Draft) -> None:
    for head, *results in _rounds(draft, lambda n: f"call_{n}"):
        draft.messages.extend({**head, "tool_calls": [each]} for each in head["tool_calls"])
        draft.messages.extend(results)


@kind("history: old functions")
def _old_functions(draft: Draft) -> None:
    draft.messages.append(
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}}
    )
    if draft.rng.random() < 0.8:
        draft.messages.append({"role": "function", "name": "weather", "content": "rain"})


@kind("history: calls of custom tools", 0.5)
def _custom_calls(draft: Draft) -> None:
    custom = {"id": "call_1", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    draft.messages.append({"role": "assistant", "content": None, "tool_calls": [custom]})
    draft.messages.append({"role": "tool", "tool_call_id": "call_1", "content": "1"})


@kind("history: odd names of tools")
def _odd_names(draft: Draft) -> None:
    name = draft.rng.choice(("mcp.server/tool", "a b", "", "ü", "x" * 200))
    draft.messages.append({"role": "assistant", "content": "", "tool_calls": [call(name, "{}", "c1")]})
    draft.messages.append({"role": "tool", "tool_call_id": "c1", "content": "done"})


@kind("history: results with pictures, or empty")
def _rich_results(draft: Draft) -> None:
    for head, *results in _rounds(draft, lambda n: f"call_{n}"):
        for each in results:
            each["content"] = draft.rng.choice(
                (
                    "",
                    " ",
                    [],
                    None,
                    [{"type": "text", "text": "see"}, picture(draft.rng)],
                    [picture(draft.rng)],
                )
            )
        draft.messages.extend([head, *results])


@kind("history: thinking, kept or not")
def _thoughts(draft: Draft) -> None:
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    odd = [
        signed,
        {"type": "redacted_thinking", "data": "eHl6"},
        {"type": "thinking", "thinking": "unsigned"},
        "x",
    ]
    for head, *results in _rounds(draft, lambda n: f"call_{n}"):
        head["thinking_blocks"] = draft.rng.sample(odd, draft.rng.randint(1, 3))
        head["reasoning_content"] = "Hm."
        draft.messages.extend([head, *results])
    if draft.rng.random() < 0.3:
        draft.messages.append({"role": "assistant", "content": "", "thinking_blocks": [signed]})


# --- Messages ---


@kind("messages: blank texts", 2)
def _blank_texts(draft: Draft) -> None:
    for _ in range(draft.rng.randint(1, 3)):
        role = draft.rng.choice(("user", "assistant", "system", "developer"))
        parts = [{"type": "text", "text": draft.blank()} for _ in range(draft.rng.randrange(3))]
        draft.insert({"role": role, "content": draft.rng.choice((draft.blank(), parts, None))})


@kind("messages: nothing but blanks", 0.05)
def _all_blank(draft: Draft) -> None:
    draft.messages[:] = [{"role": "user", "content": draft.blank()}]


@kind("messages: instructions anywhere")
def _instructions(draft: Draft) -> None:
    for _ in range(draft.rng.randint(1, 3)):
        role = draft.rng.choice(("system", "developer"))
        content = draft.rng.choice((draft.text(), [{"type": "text", "text": draft.text()}]))
        draft.insert({"role": role, "content": content})


@kind("messages: instructions alone", 0.5)
def _only_system(draft: Draft) -> None:
    draft.messages[:] = [{"role": "system", "content": draft.text()}]


@kind("messages: the assistant first", 0.7)
def _assistant_first(draft: Draft) -> None:
    draft.messages.insert(0, {"role": "assistant", "content": "How can I help?"})


@kind("messages: the assistant last")
def _prefill(draft: Draft) -> None:
    content = draft.rng.choice(
        ("{", "The answer is ", "Sure:\n", "x\u2003", [{"type": "text", "text": "So \n"}])
    )
    draft.messages.append({"role": "assistant", "content": content})


@kind("messages: the same role several times")
def _repeated(draft: Draft) -> None:
    for role in draft.rng.choices(("user", "assistant"), k=4):
        draft.insert({"role": role, "content": draft.text()})


@kind("messages: names, refusals and other members")
def _members(draft: Draft) -> None:
    for message in draft.messages:
        message["name"] = "ann"
    draft.insert(
        {
            "role": "assistant",
            "content": None,
            "refusal": draft.rng.choice(("No.", "", None)),
            "annotations": [],
        }
    )
    draft.insert(
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "Not that."}], "audio": None}
    )


@kind("messages: parts with members of others")
def _odd_parts(draft: Draft) -> None:
    draft.part({"type": "text", "text": "x", "annotations": [], "prompt_cache": True})
    draft.part({"type": draft.rng.choice(("input_text", "output_text")), "text": "y"})


@kind("messages: parts of another form", 0.7)
def _other_form(draft: Draft) -> None:
    odd: tuple[Json, ...] = (
        {"type": "text", "text": None},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
    )
    draft.part(draft.rng.choice(odd))
    draft.messages[0]["cache_control"] = {"type": "ephemeral"}


@kind("messages: malformed parts", 0.05)
def _malformed(draft: Draft) -> None:
    odd: tuple[Json, ...] = (
        {"type": "text"},
        {"type": "text", "text": {"value": "x"}},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {}},
        {"type": "image", "source": "x"},
        {"type": "document"},
        {"type": "file"},
    )
    draft.part(draft.rng.choice(odd))


# --- Pictures, sounds, files ---

_MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBP",
}


def picture(rng: random.Random, length: int = 64) -> Json:
    media_type = rng.choice(list(_MAGIC))
    data = base64.b64encode(_MAGIC[media_type] + bytes(length)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}", "detail": "low"}}


@kind("pictures", 2)
def _pictures(draft: Draft) -> None:
    for _ in range(draft.rng.randint(1, 3)):
        draft.part(picture(draft.rng, draft.rng.choice((1, 64, 30_000))))
    draft.part({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})


@kind("pictures: of another type than they say")
def _mislabelled(draft: Draft) -> None:
    real = draft.rng.choice(list(_MAGIC))
    said = draft.rng.choice(("image/png", "image/jpg", "IMAGE/JPEG", "image/heic", ""))
    data = base64.b64encode(_MAGIC[real] + bytes(30)).decode()
    draft.part({"type": "image_url", "image_url": {"url": f"data:{said};name=a;base64,{data}"}})


@kind("pictures: base64 in other spellings", 0.7)
def _spelled(draft: Draft) -> None:
    raw = _MAGIC["image/png"] + bytes(draft.rng.randrange(256) for _ in range(50))
    plain = base64.b64encode(raw).decode()
    data = draft.rng.choice(
        (
            "\n".join(plain[at : at + 20] for at in range(0, len(plain), 20)),
            plain.rstrip("="),
            base64.urlsafe_b64encode(raw).decode(),
            plain.replace("+", "%2B").replace("=", "%3D"),
        )
    )
    draft.part({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})


@kind("pictures: of types that it cannot read", 0.05)
def _unreadable(draft: Draft) -> None:
    said = draft.rng.choice(("image/svg+xml", "image/bmp", "image/tiff", "application/pdf"))
    data = base64.b64encode(b"<svg/> or whatever it is").decode()
    draft.part({"type": "image_url", "image_url": {"url": f"data:{said};base64,{data}"}})


@kind("pictures: urls that it cannot read", 0.05)
def _odd_urls(draft: Draft) -> None:
    odd = (
        "http://example.com/a.png",
        "ftp://x/a.png",
        "a.png",
        "data:image/png,raw",
        "data:image/png;base64,!!",
    )
    draft.part({"type": "image_url", "image_url": {"url": draft.rng.choice(odd)}})


@kind("pictures: too large", 0.02)
def _large(draft: Draft) -> None:
    draft.part(picture(draft.rng, 4 * 2**20))


@kind("pictures: very many", 0.03)
def _many_pictures(draft: Draft) -> None:
    for _ in range(draft.rng.choice((90, 120, 700))):
        draft.part(picture(draft.rng, 1))


@kind("files: PDF")
def _pdf(draft: Draft) -> None:
    data = base64.b64encode(b"%PDF-1.4 x").decode()
    file = {
        "filename": draft.rng.choice(("a.pdf", "", "x" * 600)),
        "file_data": f"data:application/pdf;base64,{data}",
    }
    draft.part({"type": "file", "file": file})


@kind("files: text, or PDF as a picture", 0.5)
def _other_files(draft: Draft) -> None:
    draft.part({"type": "file", "file": {"file_data": "data:text/csv;base64,YQ=="}})
    draft.part({"type": "image_url", "image_url": {"url": "data:application/pdf;base64,JVBERg=="}})


@kind("files: of others", 0.05)
def _files(draft: Draft) -> None:
    file = draft.rng.choice(({"file_id": "file-1"}, {"file_data": "data:application/zip;base64,YQ=="}, {}))
    draft.part({"type": "file", "file": file})


@kind("sounds", 0.05)
def _sounds(draft: Draft) -> None:
    draft.part({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}})


@kind("blocks of Anthropic's own", 0.7)
def _own_blocks(draft: Draft) -> None:
    draft.part(
        draft.rng.choice(
            (
                {"type": "document", "source": {"type": "text", "data": "…"}, "citations": {"enabled": True}},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                {
                    "type": "search_result",
                    "source": "s",
                    "title": "t",
                    "content": [{"type": "text", "text": "x"}],
                },
            )
        )
    )


@kind("parts that nobody knows", 0.05)
def _unknown_parts(draft: Draft) -> None:
    draft.part({"type": draft.rng.choice(("video_url", "hologram", "tool_use"))})


# --- Tools ---


def schema(rng: random.Random, depth: int = 2) -> Json:
    """Parameters as people write them."""
    properties: Json = {}
    for name in rng.sample(("city", "days", "units", "where", "tags", "deep"), rng.randint(0, 4)):
        properties[name] = _property(rng, depth)
    result: Json = {"type": "object", "properties": properties}
    if properties and rng.random() < 0.6:
        result["required"] = rng.sample(list(properties), rng.randint(1, len(properties)))
    if rng.random() < 0.4:
        result["additionalProperties"] = False
    return result


def _property(rng: random.Random, depth: int) -> Json:
    simple: tuple[Json, ...] = (
        {"type": "string", "description": "d"},
        {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^a"},
        {"type": "string", "format": rng.choice(("date", "email", "uri", "color"))},
        {"type": "integer", "minimum": 1, "maximum": 9},
        {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5},
        {"type": ["string", "null"], "default": None},
        {"enum": ["a", "b"]},
        {"const": "a"},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"type": "array", "items": {"type": "string"}, "minItems": rng.randrange(3), "uniqueItems": True},
        {"type": "boolean", "title": "t"},
    )
    return schema(rng, depth - 1) if depth and rng.random() < 0.2 else dict(rng.choice(simple))


@kind("tools", 3)
def _tools(draft: Draft) -> None:
    for name in draft.rng.sample(("search", "now", "read-file", "x_1"), draft.rng.randint(1, 3)):
        draft.tools().append(function(name, schema(draft.rng)))


@kind("tools: strict", 2)
def _strict_tools(draft: Draft) -> None:
    for index in range(draft.rng.choice((1, 2, 3, 25))):
        draft.tools().append(function(f"strict_{index}", schema(draft.rng), strict=True))


@kind("tools: bare or odd parameters", 2)
def _odd_parameters(draft: Draft) -> None:
    odd: tuple[Any, ...] = (
        None,
        {},
        {"properties": {"a": {"type": "string"}}},
        {"type": ["object", "null"], "properties": {}},
        {"type": "object", "properties": {"x": "number"}},
        {"type": "OBJECT", "properties": {"x": {"type": "STRING"}}},
        {"type": "object", "properties": {"x": {"type": "any"}, "y": {"type": "str"}}},
        {"type": "object", "properties": {"x": {"type": "string", "required": True}}, "required": True},
        {"type": "object", "properties": {"x": {"minimum": "1", "exclusiveMinimum": True}}},
        {"type": "object", "properties": {"x": {"type": "array", "items": [{"type": "string"}]}}},
        {"type": "object", "properties": None, "required": ["a", "a"]},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}},
        {
            "type": "object",
            "definitions": {"A": {"type": "string"}},
            "properties": {"x": {"$ref": "#/definitions/A"}},
        },
        {"type": "object", "properties": {"x": {"enum": "a"}, "y": {"anyOf": []}, "z": True}},
    )
    draft.tools().append(function("odd", draft.rng.choice(odd)))
    draft.tools().append({"type": "function", "function": {"name": "bare"}})


@kind("tools: compositions at the root")
def _composed(draft: Draft) -> None:
    branch = {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}
    odd: tuple[Json, ...] = (
        {"anyOf": [branch, {"type": "object", "properties": {"c": {"type": "integer"}}}]},
        {"type": "object", "properties": {"a": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"allOf": [branch, {"$ref": "#/$defs/more"}], "$defs": {"more": branch}},
        {"$ref": "#/$defs/more", "$defs": {"more": branch}},
        {"allOf": [{"$ref": "#"}], "properties": {"a": {}}},
    )
    draft.tools().append(
        function("composed", draft.rng.choice(odd), strict=draft.rng.choice((True, False, None)))
    )


@kind("tools: a name twice", 0.5)
def _twice(draft: Draft) -> None:
    first = draft.tools()[0]
    draft.tools().append(
        draft.rng.choice((json.loads(json.dumps(first)), function("weather", schema(draft.rng))))
    )


@kind("tools: no parameters that it takes", 0.05)
def _no_object(draft: Draft) -> None:
    odd: tuple[Json, ...] = (
        {"type": "string"},
        {"type": "object", "properties": {"$top": {"type": "integer"}}},
    )
    draft.tools().append(function("wrong", draft.rng.choice(odd)))


@kind("tools: names that it does not take", 0.05)
def _tool_names(draft: Draft) -> None:
    draft.tools().append(function(draft.rng.choice(("a.b", "a b", "", "x" * 129, "ü")), {}))


@kind("tools: custom", 0.05)
def _custom_tools(draft: Draft) -> None:
    draft.tools().append({"type": "custom", "custom": {"name": "sql"}})


@kind("tools: old functions", 0.05)
def _functions(draft: Draft) -> None:
    draft.body["functions"] = [{"name": "weather", "parameters": {"type": "object", "properties": {}}}]


@kind("tools: Anthropic's own", 0.4)
def _server_tools(draft: Draft) -> None:
    draft.tools().append({"type": "web_search_20250305", "name": "web_search", "max_uses": 2})
    draft.tools().append({"name": "own", "input_schema": {"type": "object", "properties": {}}})


@kind("tools: a choice of them", 1.5)
def _choices(draft: Draft) -> None:
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}
    draft.tools()
    draft.body["tool_choice"] = draft.rng.choice(
        ("auto", "none", {"type": "auto"}, None, {"type": "allowed_tools", "allowed_tools": allowed})
    )
    draft.body["parallel_tool_calls"] = draft.rng.choice((True, False, None))


@kind("tools: one must be called", 0.5)
def _forced(draft: Draft) -> None:
    draft.tools()
    name = draft.tools()[0]["function"]["name"]
    draft.body["tool_choice"] = draft.rng.choice(
        (
            "required",
            "any",
            {"type": "function", "function": {"name": name}},
            {"type": "function", "name": name},
            {"type": "tool", "name": name},
        )
    )
    draft.body["parallel_tool_calls"] = draft.rng.choice((True, False, None))


@kind("tools: a choice without any", 0.5)
def _choice_alone(draft: Draft) -> None:
    draft.body.pop("tools", None)
    draft.body["tool_choice"] = draft.rng.choice(("auto", "none"))
    draft.body["parallel_tool_calls"] = False


# --- The shape of the answer ---


@kind("response_format: words")
def _format_words(draft: Draft) -> None:
    draft.body["response_format"] = {"type": draft.rng.choice(("text", "json_object"))}


@kind("response_format: schemas", 2)
def _format_schema(draft: Draft) -> None:
    wrapper: Json = {"name": "x", "schema": schema(draft.rng)}
    draft.body["response_format"] = {"type": "json_schema", "json_schema": wrapper}


@kind("response_format: schemas beyond what can be enforced")
def _format_odd(draft: Draft) -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}
    odd: tuple[Json, ...] = (
        {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": tree}},
        {
            "type": "object",
            "properties": {"map": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
        {"type": "object"},
        {"type": "array", "items": {"type": "string"}},
        {},
        {"anyOf": [{"type": "object", "properties": {}}, {"type": "null"}]},
        {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(30)}},
        {
            "type": "object",
            "properties": {f"p{number}": {"type": ["string", "null"]} for number in range(20)},
            "required": [f"p{number}" for number in range(20)],
        },
        {"type": "object", "properties": {"x": {"$ref": "https://example.com/x"}}},
        {"type": "object", "properties": {"x": {"enum": [{"a": 1}, 2]}, "y": {"not": {}}}},
        {"type": "object", "properties": {"t": {"prefixItems": [{"type": "string"}]}}},
    )
    draft.body["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": draft.rng.choice(odd)},
    }


@kind("response_format: strict schemas", 0.7)
def _format_strict(draft: Draft) -> None:
    city: Json = {
        "type": "object",
        "properties": {"city": {"type": "string", "minLength": 1}},
        "required": ["city"],
    }
    draft.body["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "x", "strict": True, "schema": {**city, "additionalProperties": False}},
    }


@kind("response_format: of others", 0.05)
def _format_other(draft: Draft) -> None:
    draft.body["response_format"] = {"type": "grammar", "grammar": "root ::= x"}


# --- Sampling, limits, thinking ---


@kind("sampling", 3)
def _sampling(draft: Draft) -> None:
    rng = draft.rng
    for name, values in (
        ("temperature", (0, 0.0, 0.2, 1, 1.3, 2, None)),
        ("top_p", (0, 0.1, 0.95, 1, None)),
        ("top_k", (-1, 0, 1, 40, 2.5, "40", None)),
    ):
        if rng.random() < 0.6:
            draft.body[name] = rng.choice(values)


@kind("limits", 2)
def _limits(draft: Draft) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        if draft.rng.random() < 0.6:
            draft.body[name] = draft.rng.choice((1, 16, 1024, 1025, 4096, 200_000, 10**9, None))


@kind("thinking", 3)
def _thinking(draft: Draft) -> None:
    kinds: tuple[Any, ...] = (
        {"type": "enabled", "budget_tokens": draft.rng.choice((0, 1, 1023, 1024, 8000, 10**6))},
        {"type": "enabled"},
        {"type": "enabled", "budget_tokens": "many", "display": "summarized"},
        {"type": "adaptive", "display": draft.rng.choice(("omitted", "neon"))},
        {"type": "adaptive", "budget_tokens": 2000},
        {"type": "disabled"},
        {"type": "between_tools"},
        {"type": "auto"},
        True,
        {},
    )
    draft.body["thinking"] = draft.rng.choice(kinds)


@kind("effort")
def _effort(draft: Draft) -> None:
    effort = draft.rng.choice(("none", "minimal", "low", "medium", "high", "xhigh", "max"))
    draft.body["reasoning_effort"] = effort
    if draft.rng.random() < 0.5:
        draft.body["output_config"] = {"effort": effort, "whatever": 1}


@kind("stop", 1.5)
def _stop(draft: Draft) -> None:
    odd: tuple[Any, ...] = ("END", "\n", "", ["a", "b"], ["\n", " ", "x"], ["a"] * 8, [], None, ["\n\n"])
    draft.body["stop"] = draft.rng.choice(odd)


# --- Who asks, marks, and what else comes along ---


@kind("users", 1.5)
def _users(draft: Draft) -> None:
    odd = ("ann", "ann@example.com", "+49 30 123456", "x" * 300, "", " ", "4f1c", "12345678", "mail to: a@b")
    draft.body[draft.rng.choice(("user", "safety_identifier"))] = draft.rng.choice(odd)


@kind("marks", 2)
def _marks(draft: Draft) -> None:
    odd: tuple[Any, ...] = (
        {"type": "ephemeral"},
        {"type": "ephemeral"},
        {"type": "ephemeral", "ttl": "1h"},
        {"type": "ephemeral", "ttl": "5m"},
        {"type": "ephemeral", "ttl": "2d"},
        {"type": "ephemeral", "scope": "global"},
        {},
        None,
        "yes",
    )
    for _ in range(draft.rng.randint(1, 7)):
        part = {"type": "text", "text": draft.rng.choice((draft.text(), draft.blank()))}
        part["cache_control"] = draft.rng.choice(odd)
        draft.insert({"role": draft.rng.choice(("user", "system", "user")), "content": [part]})
    if draft.rng.random() < 0.3:
        draft.tools()[0]["cache_control"] = draft.rng.choice(odd)
    if draft.rng.random() < 0.2:
        draft.body["cache_control"] = draft.rng.choice(odd)


@kind("hints that have no word there", 2)
def _hints(draft: Draft) -> None:
    hints: Json = {
        "presence_penalty": 0.5,
        "frequency_penalty": -1,
        "seed": 7,
        "logit_bias": {"50256": -100},
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": draft.rng.choice(("auto", "default", "flex", "priority")),
        "prediction": {"type": "content", "content": "x"},
        "verbosity": "low",
        "prompt_cache_key": "k",
        "n": 1,
        "logprobs": False,
        "top_logprobs": 0,
        "modalities": ["text"],
        "stream_options": {"include_usage": True},
        "user": None,
    }
    for name in draft.rng.sample(list(hints), draft.rng.randint(1, 6)):
        draft.body[name] = hints[name]


@kind("fields of other servers")
def _unknown_fields(draft: Draft) -> None:
    others: Json = {
        "repetition_penalty": 1.1,
        "min_p": 0.1,
        "chat_template_kwargs": {"enable_thinking": True},
        "guided_json": {},
        "extra_body": {},
        "transforms": ["middle-out"],
        "stop_token_ids": [1],
        "betas": ["x"],
        "system": "top",
        "stop_sequences": [" "],
        "mcp_servers": [],
    }
    for name in draft.rng.sample(list(others), 3):
        draft.body[name] = others[name]


@kind("several choices", 0.05)
def _choices_n(draft: Draft) -> None:
    draft.body["n"] = draft.rng.randint(2, 5)


@kind("logprobs", 0.07)
def _logprobs(draft: Draft) -> None:
    draft.body["logprobs"] = True
    draft.body["top_logprobs"] = 3


@kind("spoken answers", 0.05)
def _spoken(draft: Draft) -> None:
    draft.body["modalities"] = ["text", "audio"]
    draft.body["audio"] = {"voice": "alloy", "format": "wav"}


@kind("search on the web", 0.05)
def _web(draft: Draft) -> None:
    draft.body["web_search_options"] = {}
