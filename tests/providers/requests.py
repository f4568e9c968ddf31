"""Chat Completions requests as clients write them: mostly ordinary, each with one to four odd things.

    for request in requests(seed=1, count=10_000):
        request.kinds    # what is odd about it
        request.model    # the upstream model of the route
        request.body     # what our own `chat.request.parse` lets through

The same seed makes the same requests. What most providers cannot do at all (spoken answers, several choices, …) is as
rare as it is among real requests. Most kinds are data, in requests.yaml, and this is what carries them out; those that
need more than that are functions below.
"""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

DATA: Json = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PNG = b"\x89PNG\r\n\x1a\n"
PICTURES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBP",
}
"""How each begins."""


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
        text = str(self.rng.choice(DATA["texts"]))
        return f"{text} {' '.join(self.rng.choices(DATA['words'], k=self.rng.randrange(6)))}"

    def blank(self) -> str:
        return str(self.rng.choice(DATA["blanks"]))

    def say(self, role: str, content: Any, **more: Any) -> None:
        self.messages.append({"role": role, "content": content, **more})

    def insert(self, message: Json) -> None:
        """Anywhere among the messages."""
        self.messages.insert(self.rng.randrange(len(self.messages) + 1), message)

    def tools(self) -> list[Json]:
        """The tools of the request, with at least one in them."""
        listed: list[Json] = self.body.setdefault("tools", [])
        if not listed:
            listed.append(function("weather", self.schema()))
        return listed

    def part(self, part: Json) -> None:
        """A part in one of the user's messages."""
        if all(message["role"] != "user" for message in self.messages):
            self.say("user", self.text())
        message = self.rng.choice([message for message in self.messages if message["role"] == "user"])
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else (content or [])
        parts.insert(self.rng.randrange(len(parts) + 1), part)
        message["content"] = parts

    def picture(self, length: int = 64) -> Json:
        media_type = self.rng.choice(list(PICTURES))
        return _picture(f"{media_type};base64,{_base64(PICTURES[media_type] + bytes(length))}", detail="low")

    def schema(self, depth: int = 2) -> Json:
        """Parameters as people write them."""
        rng, properties = self.rng, {}
        for name in rng.sample(("city", "days", "units", "where", "tags", "deep"), rng.randint(0, 4)):
            simple = self.made(DATA["properties"])
            properties[name] = (
                self.schema(depth - 1) if depth and rng.random() < 0.2 else dict(rng.choice(simple))
            )
        result: Json = {"type": "object", "properties": properties}
        if properties and rng.random() < 0.6:
            result["required"] = rng.sample(list(properties), rng.randint(1, len(properties)))
        if rng.random() < 0.4:
            result["additionalProperties"] = False
        return result

    def made(self, of: Any) -> Any:
        """What the data says, with its `$…` drawn. A list is made as a whole before one is chosen of it."""
        match of:
            case {"$one": options}:
                return self.rng.choice([self.made(each) for each in options])
            case {"$text": _}:
                return self.text()
            case {"$blank": _}:
                return self.blank()
            case {"$schema_of": _}:
                return self.schema()
            case {"$picture": length}:
                return self.picture(length)
            case {"$many": [count, schema]}:
                return {f"p{number}": copy.deepcopy(schema) for number in range(count)}
            case {"$times": [count, text]}:
                return text * count
            case {"$join": parts}:
                return "".join(map(self.made, parts))
            case dict():
                return {name: self.made(value) for name, value in of.items()}
            case list():
                return [self.made(value) for value in of]
        return of

    def take(self, step: Json) -> None:
        """One step of the data."""
        if "chance" in step and self.rng.random() >= step["chance"]:
            return
        if "some" in step:
            fields = self.made(step["some"]["of"])
            count = step["some"]["count"]
            names = self.rng.sample(
                list(fields), count if isinstance(count, int) else self.rng.randint(*count)
            )
            self.body.update((name, fields[name]) for name in names)
            return
        [(verb, given)] = ((name, value) for name, value in step.items() if name != "chance")
        if verb in {"tool", "function"}:
            tools = self.tools()
        what = self.made(given)
        match verb:
            case "set":
                self.body |= what
            case "unset":
                self.body.pop(what, None)
            case "part":
                self.part(what)
            case "insert":
                self.insert(what)
            case "append":
                self.messages.append(what)
            case "prepend":
                self.messages.insert(0, what)
            case "replace":
                self.messages[:] = [what]
            case "each":
                for message in self.messages:
                    message.update(what)
            case "first":
                self.messages[0] |= what
            case "tool" if what is not None:
                tools.append(what)
            case "function":
                tools.append(function(**what))


Change = Callable[[Draft], None]
FUNCTIONS: dict[str, Change] = {}


def kind(name: str) -> Callable[[Change], Change]:
    """A way to be odd that requests.yaml names without steps."""
    return lambda change: FUNCTIONS.setdefault(name, change)


def requests(*, seed: int, count: int) -> Iterator[Request]:
    rng = random.Random(seed)
    kinds: dict[str, Json] = DATA["kinds"]
    weights = [each.get("weight", 1.0) for each in kinds.values()]
    for _ in range(count):
        draft = Draft(rng)
        if rng.random() < 0.6:
            draft.say("system", "You are a helpful assistant.")
        for _ in range(rng.randrange(3)):
            draft.say("user", draft.text())
            draft.say("assistant", draft.text())
        draft.say("user", draft.text())
        chosen = list(dict.fromkeys(rng.choices(list(kinds), weights, k=rng.randint(1, 4))))
        for name in chosen:
            if name in FUNCTIONS:
                FUNCTIONS[name](draft)
            for step in kinds[name].get("steps", ()):
                draft.take(step)
        if rng.random() < 0.3:
            draft.body["stream"] = True
        yield Request(chosen, rng.choice(DATA["models"]), json.loads(json.dumps(draft.body)))


def function(name: str, parameters: Any, **more: Any) -> Json:
    return {
        "type": "function",
        "function": {"name": name, "description": "d", "parameters": parameters, **more},
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _picture(data: str, **more: Any) -> Json:
    return {"type": "image_url", "image_url": {"url": f"data:{data}", **more}}


# --- Histories of agents ---


def _rounds(
    draft: Draft, ids: Callable[[int], str] = "call_{}".format, arguments: Callable[[], Any] = lambda: "{}"
) -> list[list[Json]]:
    """Some rounds of calls and their results, at the end of the conversation; returns the messages of each."""
    rounds = []
    number = 0
    for _ in range(draft.rng.randint(1, 3)):
        calls = []
        for _ in range(draft.rng.randint(1, 3)):
            called = {"name": draft.rng.choice(("weather", "search")), "arguments": arguments()}
            calls.append({"id": ids(number), "type": "function", "function": called})
            number += 1
        said: Any = draft.rng.choice((None, "", "\n", "Let me look.", [{"type": "text", "text": "Hm."}]))
        results = [{"role": "tool", "tool_call_id": each["id"], "content": draft.text()} for each in calls]
        rounds.append([{"role": "assistant", "content": said, "tool_calls": calls}, *results])
    if draft.rng.random() < 0.7:
        draft.tools()
    return rounds


def _say(draft: Draft, rounds: list[list[Json]]) -> None:
    for messages in rounds:
        draft.messages += messages


@kind("history: calls and results in order")
def _in_order(draft: Draft) -> None:
    _say(draft, _rounds(draft))
    if draft.rng.random() < 0.5:
        draft.say("user", draft.text())


@kind("history: results out of order")
def _shuffled(draft: Draft) -> None:
    for head, *results in _rounds(draft):
        draft.rng.shuffle(results)
        draft.messages += [head, *results]


@kind("history: a user's message between call and result")
def _interrupted(draft: Draft) -> None:
    for head, *results in _rounds(draft):
        draft.messages += [head, {"role": "user", "content": "Hurry."}, *results]


@kind("history: results missing")
def _unanswered(draft: Draft) -> None:
    for head, *results in _rounds(draft):
        draft.messages += [head, *(each for each in results if draft.rng.random() < 0.4)]
    if draft.rng.random() < 0.5:
        draft.say("user", draft.text())


@kind("history: results twice or without a call")
def _orphans(draft: Draft) -> None:
    for head, *results in _rounds(draft):
        draft.messages += [head, *results, draft.rng.choice(results)]
    draft.take(
        {"insert": {"role": "tool", "tool_call_id": "call_lost", "content": {"$one": ["lost", "", " "]}}}
    )


@kind("history: odd ids")
def _odd_ids(draft: Draft) -> None:
    odd = ("call:{}", "fc.{}|x", "a b {}", "", "ü{}", "call_{}" + "x" * 80, "chatcmpl-tool-{}", "/{}/")
    _say(draft, _rounds(draft, draft.rng.choice(odd).format))


@kind("history: ids missing")
def _no_ids(draft: Draft) -> None:
    for head, *results in _rounds(draft):
        for each in head["tool_calls"]:
            del each["id"]
        for each in results:
            each["tool_call_id"] = draft.rng.choice((None, "", "call_0"))
        draft.messages += [head, *results]


@kind("history: ids used again")
def _same_ids(draft: Draft) -> None:
    _say(draft, _rounds(draft, lambda number: f"call_{number % 2}"))


@kind("history: arguments that are no object")
def _odd_arguments(draft: Draft) -> None:
    odd = ("null", "[1]", '"x"', '{"a": 1', "", " ", "not json", '{"a":1}{"b":2}', None, "7", {"a": 1})
    _say(draft, _rounds(draft, arguments=lambda: draft.rng.choice(odd)))


@kind("history: parallel calls as messages of their own")
def _split(draft: Draft) -> None:
    for head, *results in _rounds(draft):
        draft.messages += ({**head, "tool_calls": [each]} for each in head["tool_calls"])
        draft.messages += results


@kind("history: results with pictures, or empty")
def _rich_results(draft: Draft) -> None:
    pictures = [{"type": "text", "text": "see"}, {"$picture": 64}], [{"$picture": 64}]
    for head, *results in _rounds(draft):
        for each in results:
            each["content"] = draft.made({"$one": ["", " ", [], None, *pictures]})
        draft.messages += [head, *results]


@kind("history: thinking, kept or not")
def _thoughts(draft: Draft) -> None:
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    odd = (
        signed,
        {"type": "redacted_thinking", "data": "eHl6"},
        {"type": "thinking", "thinking": "unsigned"},
        "x",
    )
    for head, *results in _rounds(draft):
        head["thinking_blocks"] = draft.rng.sample(odd, draft.rng.randint(1, 3))
        head["reasoning_content"] = "Hm."
        draft.messages += [head, *results]
    if draft.rng.random() < 0.3:
        draft.say("assistant", "", thinking_blocks=[signed])


# --- Messages and their parts ---


@kind("messages: blank texts")
def _blank_texts(draft: Draft) -> None:
    for _ in range(draft.rng.randint(1, 3)):
        role = draft.rng.choice(("user", "assistant", "system", "developer"))
        parts = [{"type": "text", "text": draft.blank()} for _ in range(draft.rng.randrange(3))]
        draft.insert({"role": role, "content": draft.rng.choice((draft.blank(), parts, None))})


@kind("messages: instructions anywhere")
def _instructions(draft: Draft) -> None:
    for _ in range(draft.rng.randint(1, 3)):
        content = {"$one": [{"$text": None}, [{"type": "text", "text": {"$text": None}}]]}
        draft.take({"insert": {"role": {"$one": ["system", "developer"]}, "content": content}})


@kind("messages: the same role several times")
def _repeated(draft: Draft) -> None:
    for role in draft.rng.choices(("user", "assistant"), k=4):
        draft.insert({"role": role, "content": draft.text()})


@kind("pictures")
def _pictures(draft: Draft) -> None:
    for _ in range(draft.rng.randint(1, 3)):
        draft.take({"part": {"$picture": draft.rng.choice((1, 64, 30_000))}})
    draft.part({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})


@kind("pictures: of another type than they say")
def _mislabelled(draft: Draft) -> None:
    real = draft.rng.choice(list(PICTURES))
    said = draft.rng.choice(("image/png", "image/jpg", "IMAGE/JPEG", "image/heic", ""))
    draft.part(_picture(f"{said};name=a;base64,{_base64(PICTURES[real] + bytes(30))}"))


@kind("pictures: base64 in other spellings")
def _spelled(draft: Draft) -> None:
    raw = PNG + bytes(draft.rng.randrange(256) for _ in range(50))
    plain = _base64(raw)
    spellings = (
        "\n".join(plain[at : at + 20] for at in range(0, len(plain), 20)),
        plain.rstrip("="),
        base64.urlsafe_b64encode(raw).decode(),
        plain.replace("+", "%2B").replace("=", "%3D"),
    )
    draft.part(_picture(f"image/png;base64,{draft.rng.choice(spellings)}"))


@kind("pictures: very many")
def _many_pictures(draft: Draft) -> None:
    for _ in range(draft.rng.choice((90, 120, 700))):
        draft.part(draft.picture(1))


# --- Tools, and the rest ---


@kind("tools")
def _tools(draft: Draft) -> None:
    for name in draft.rng.sample(("search", "now", "read-file", "x_1"), draft.rng.randint(1, 3)):
        draft.tools().append(function(name, draft.schema()))


@kind("tools: strict")
def _strict_tools(draft: Draft) -> None:
    for index in range(draft.rng.choice((1, 2, 3, 25))):
        draft.tools().append(function(f"strict_{index}", draft.schema(), strict=True))


@kind("tools: a name twice")
def _twice(draft: Draft) -> None:
    first = draft.tools()[0]
    draft.tools().append(draft.rng.choice((copy.deepcopy(first), function("weather", draft.schema()))))


@kind("tools: one must be called")
def _forced(draft: Draft) -> None:
    name = draft.tools()[0]["function"]["name"]
    forms = (
        {"type": "function", "function": {"name": name}},
        *({"type": each, "name": name} for each in ("function", "tool")),
    )
    draft.body["tool_choice"] = draft.rng.choice(("required", "any", *forms))
    draft.body["parallel_tool_calls"] = draft.rng.choice((True, False, None))


@kind("effort")
def _effort(draft: Draft) -> None:
    effort = draft.rng.choice(("none", "minimal", "low", "medium", "high", "xhigh", "max"))
    draft.body["reasoning_effort"] = effort
    if draft.rng.random() < 0.5:
        draft.body["output_config"] = {"effort": effort, "whatever": 1}


@kind("users")
def _users(draft: Draft) -> None:
    odd = ("ann", "ann@example.com", "+49 30 123456", "x" * 300, "", " ", "4f1c", "12345678", "mail to: a@b")
    draft.body[draft.rng.choice(("user", "safety_identifier"))] = draft.rng.choice(odd)


@kind("marks")
def _marks(draft: Draft) -> None:
    common: Json = {"type": "ephemeral"}
    rare = ({"ttl": "1h"}, {"ttl": "5m"}, {"ttl": "2d"}, {"scope": "global"})
    odd: tuple[Any, ...] = (common, common, *({**common, **each} for each in rare), {}, None, "yes")
    for _ in range(draft.rng.randint(1, 7)):
        part = {"type": "text", "text": draft.rng.choice((draft.text(), draft.blank()))}
        part["cache_control"] = draft.rng.choice(odd)
        draft.insert({"role": draft.rng.choice(("user", "system", "user")), "content": [part]})
    if draft.rng.random() < 0.3:
        draft.tools()[0]["cache_control"] = draft.rng.choice(odd)
    if draft.rng.random() < 0.2:
        draft.body["cache_control"] = draft.rng.choice(odd)


@kind("several choices")
def _choices(draft: Draft) -> None:
    draft.body["n"] = draft.rng.randint(2, 5)
