"""The fake of Anthropic refuses: each of its rules has an example that is refused for that reason and no other."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from testkit.anthropic_rules import MAX_IMAGE, refusal

Json = dict[str, Any]

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
TEXT: Json = {"type": "text", "text": "Hi"}
USE: Json = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
RESULT: Json = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
THOUGHT: Json = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
TOOL: Json = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
CLOSED: Json = {"type": "object", "properties": {}, "additionalProperties": False}
BUDGET: Json = {"type": "enabled", "budget_tokens": 1024}
MARK: Json = {"type": "ephemeral"}


def asked(model: str = "claude-sonnet-4-5", **fields: Any) -> Json:
    body = {"model": model, "max_tokens": 4096, "messages": [user()], **fields}
    return copy.deepcopy({name: value for name, value in body.items() if value is not None})


def user(*blocks: Any) -> Json:
    return {"role": "user", "content": list(blocks) or "Hi"}


def assistant(*blocks: Any) -> Json:
    return {"role": "assistant", "content": list(blocks)}


def messages(*turns: Json, **fields: Any) -> Json:
    return asked(messages=list(turns), **fields)


def called(*after: Json, before: Json = TEXT, **fields: Any) -> Json:
    return messages(user(), assistant(before, USE), *after, tools=[TOOL], **fields)


def tool(**fields: Any) -> Json:
    return asked(tools=[{**TOOL, **fields}])


def parameters(**fields: Any) -> Json:
    return tool(input_schema={"type": "object", **fields})


def shaped(schema: Any, **fields: Any) -> Json:
    return asked(output_config={"format": {"type": "json_schema", "schema": schema}}, **fields)


def marked(*marks: Any) -> Json:
    return messages(user(*({**TEXT, "cache_control": mark} for mark in marks)))


def picture(**source: Any) -> Json:
    return messages(
        user({"type": "image", "source": {"type": "base64", "media_type": "image/png", **source}})
    )


@pytest.mark.parametrize(
    "body",
    [
        asked(),
        asked(
            temperature=0.5, top_k=3, stop_sequences=["x"], metadata={"user_id": "u"}, system="s", stream=True
        ),
        asked("claude-3-haiku-20240307", temperature=1, top_p=0.5),
        asked(thinking=BUDGET, top_p=0.96),
        asked("claude-opus-4-6", thinking={"type": "adaptive"}, output_config={"effort": "max"}),
        asked("claude-sonnet-5-5", thinking={"type": "between_tools"}),
        called(user(RESULT, TEXT)),
        called(user(RESULT), thinking=BUDGET, before=THOUGHT),
        asked(tools=[TOOL, {"type": "web_search_20250305", "name": "search"}], tool_choice={"type": "any"}),
        shaped(CLOSED),
        messages(user(), assistant(TEXT)),
        marked({"type": "ephemeral", "ttl": "1h"}, MARK, MARK, MARK),
        picture(data=PNG),
        messages(
            user(
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "YQ=="},
                }
            )
        ),
    ],
)
def test_what_is_right_is_taken(body: Json) -> None:
    assert refusal(body) is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        # fields
        ([], "valid dictionary"),
        (asked(n=1), "n: Extra inputs"),
        (asked(model=""), "model"),
        (asked(stream="yes"), "stream"),
        (asked(service_tier="flex"), "service_tier"),
        (asked(system="x" * 33_000_000), "maximum size"),
        # limits and thinking
        ({"model": "m", "messages": [user()]}, "max_tokens: Field required"),
        (asked(max_tokens=0), "greater than or equal to 1"),
        (asked(max_tokens=64_001), "maximum allowed"),
        (asked("claude-3-5-haiku-20241022", max_tokens=8193), "maximum allowed"),
        (asked(thinking={"type": "maybe"}), "thinking.type"),
        (asked(thinking={"type": "adaptive"}), "not supported for this model"),
        (asked("claude-opus-4-7", thinking=BUDGET), "not supported for this model"),
        (asked("claude-fable-5", thinking={"type": "disabled"}), "not supported for this model"),
        (asked("claude-opus-5-5", thinking={"type": "disabled"}), "not supported for this model"),
        (asked("claude-sonnet-5-5", thinking={"type": "disabled"}), "not supported for this model"),
        (asked("claude-3-haiku-20240307", thinking=BUDGET), "not supported for this model"),
        (asked(thinking={"type": "disabled", "budget_tokens": 1}), "Extra inputs"),
        (asked(thinking={**BUDGET, "display": "neon"}), "display"),
        (asked(thinking={"type": "enabled"}), "budget_tokens: Field required"),
        (asked(thinking={"type": "enabled", "budget_tokens": 1023}), "1024"),
        (asked(thinking={"type": "enabled", "budget_tokens": 4096}), "must be greater than"),
        (
            asked("claude-opus-5", thinking={"type": "disabled"}, output_config={"effort": "xhigh"}),
            "thinking.disabled: effort",
        ),
        # sampling
        (asked(temperature=1.1), "temperature: range"),
        (asked(top_p=-0.1), "top_p: range"),
        (asked(top_k=0), "top_k"),
        (asked(temperature=1, top_p=1), "cannot both"),
        (asked("my-own", temperature=1, top_p=1), "cannot both"),
        (asked("claude-opus-4-7", temperature=1), "deprecated"),
        (asked("claude-opus-4-8", top_k=1), "deprecated"),
        (asked("claude-haiku-5-5", top_p=1), "deprecated"),
        (asked(thinking=BUDGET, temperature=0.5), "may only be set to 1"),
        (asked(thinking=BUDGET, top_k=5), "top_k"),
        (asked(thinking=BUDGET, top_p=0.9), "0.95"),
        # stops and users
        (asked(stop_sequences="x"), "valid list"),
        (asked(stop_sequences=[1]), "valid string"),
        (asked(stop_sequences=[""]), "non-empty"),
        (asked(stop_sequences=["x", "\n"]), "non-whitespace"),
        (asked(metadata={"a": "b"}), "Extra inputs"),
        (asked(metadata={"user_id": 1}), "valid string"),
        (asked(metadata={"user_id": "x" * 257}), "256"),
        (asked(metadata={"user_id": "a@b.c"}), "email"),
        (asked(metadata={"user_id": "+49 30 1234567"}), "phone"),
        # system
        (asked(system=" "), "non-whitespace"),
        (asked(system=[{"type": "image"}]), "Input should be 'text'"),
        (asked(system=[{"type": "text", "text": ""}]), "non-empty"),
        # tools
        (tool(name="a.b"), "should match pattern"),
        (tool(name="x" * 129), "should match pattern"),
        (tool(type="function"), "does not match"),
        (tool(parameters={}), "Extra inputs"),
        (tool(description=1), "description"),
        (tool(strict="yes"), "strict"),
        (tool(input_schema=None), "input_schema: Field required"),
        (tool(input_schema={}), "type: Field required"),
        (tool(input_schema={"type": "string"}), "Input should be 'object'"),
        (parameters(anyOf=[{}]), "does not support oneOf"),
        (parameters(properties={"x": "number"}), "JSON schema is invalid"),
        (parameters(properties={"x": {"items": [{}]}}), "JSON schema is invalid"),
        (parameters(required=True), "JSON schema is invalid"),
        (parameters(properties={"$top": {}}), "Property keys"),
        (asked(tools=[TOOL, TOOL]), "must be unique"),
        (
            asked(
                tools=[{**TOOL, "name": f"f{n}", "input_schema": CLOSED, "strict": True} for n in range(21)]
            ),
            "20",
        ),
        (tool(strict=True), "additionalProperties"),
        (
            asked("claude-3-haiku-20240307", tools=[{**TOOL, "input_schema": CLOSED, "strict": True}]),
            "strict",
        ),
        # the choice among them
        (asked(tool_choice={"type": "auto"}), "while providing `tools`"),
        (asked(tools=[TOOL], tool_choice="auto"), "tool_choice"),
        (asked(tools=[TOOL], tool_choice={"type": "required"}), "tool_choice"),
        (
            asked(tools=[TOOL], tool_choice={"type": "none", "disable_parallel_tool_use": True}),
            "Extra inputs",
        ),
        (asked(tools=[TOOL], tool_choice={"type": "tool", "name": "g"}), "not found"),
        (asked(tools=[TOOL], tool_choice={"type": "any"}, thinking=BUDGET), "forces tool use"),
        (asked("claude-opus-5-5", tools=[TOOL], tool_choice={"type": "any"}), "not supported"),
        # the shape of the answer
        (asked(output_config={"schema": {}}), "Extra inputs"),
        (asked(output_config={"effort": "low"}), "does not support the effort"),
        (asked("claude-opus-4-5", output_config={"effort": "max"}), "effort"),
        (asked(output_config={"format": {"type": "json"}}), "json_schema"),
        (
            asked(output_config={"format": {"type": "json_schema", "schema": CLOSED, "name": "x"}}),
            "Extra inputs",
        ),
        (shaped(None), "schema: Field required"),
        (shaped({**CLOSED, "additionalProperties": True}), "explicitly set to false"),
        (shaped({**CLOSED, "minProperties": 1}), "not supported"),
        (shaped({**CLOSED, "properties": {"a": {"type": "integer", "minimum": 1}}}), "minimum"),
        (shaped({**CLOSED, "properties": {"a": {"type": "string", "format": "color"}}}), "format"),
        (shaped({**CLOSED, "properties": {"a": {"type": "array", "minItems": 2}}}), "minItems"),
        (shaped({**CLOSED, "properties": {"a": {}}}), "must have a type"),
        (shaped({**CLOSED, "properties": {"a": True}}), "boolean schemas"),
        (shaped({**CLOSED, "properties": {"a": {"enum": [{}]}}}), "complex types"),
        (shaped({**CLOSED, "properties": {"a": {"$ref": "https://x"}}}), "external"),
        (
            shaped(
                {"$ref": "#/$defs/a", "$defs": {"a": {**CLOSED, "properties": {"b": {"$ref": "#/$defs/a"}}}}}
            ),
            "Recursive",
        ),
        (shaped({**CLOSED, "properties": {f"p{n}": {"type": "null"} for n in range(25)}}), "optional"),
        (
            shaped({**CLOSED, "properties": {f"p{n}": {"type": ["null", "string"]} for n in range(17)}}),
            "union",
        ),
        (shaped(CLOSED, model="claude-3-haiku-20240307"), "not supported for this model"),
        (
            shaped(
                CLOSED,
                messages=[
                    user(
                        {
                            "type": "document",
                            "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                            "citations": {"enabled": True},
                        }
                    )
                ],
            ),
            "citations",
        ),
        # turns
        (messages(), "at least one"),
        (messages(assistant(TEXT), user()), "first message"),
        (messages(user(), user()), "alternate"),
        (messages({"role": "system", "content": "x"}), "role"),
        (messages({"role": "user", "content": "Hi", "name": "a"}), "Extra inputs"),
        (messages({"role": "user", "content": []}), "non-empty content"),
        (messages(user({"type": "hologram"})), "does not match"),
        (messages(user(), assistant({"type": "image"}), user()), "does not match"),
        (messages(user({**TEXT, "annotations": []})), "Extra inputs"),
        (messages(user({"type": "text", "text": ""})), "non-empty"),
        (messages(user({"type": "text", "text": " \n"})), "non-whitespace"),
        (messages(user(), assistant(THOUGHT), user()), "final block"),
        (messages(user(), assistant({"type": "thinking", "thinking": "x"}, TEXT), user()), "signature"),
        (messages(user(), assistant({"type": "redacted_thinking"}, TEXT), user()), "redacted_thinking"),
        (messages(user(), assistant({**THOUGHT, "cache_control": MARK}, TEXT), user()), "Extra inputs"),
        # the assistant at the end
        (messages(user(), assistant({"type": "text", "text": "So "})), "trailing whitespace"),
        (messages(user(), assistant(THOUGHT, TEXT)), "final position"),
        (messages(user(), assistant(TEXT), model="claude-opus-4-6"), "not supported for this model"),
        (messages(user(), assistant(TEXT), thinking=BUDGET), "thinking"),
        (shaped(CLOSED, messages=[user(), assistant(TEXT)]), "structured outputs"),
        # calls and results
        (called(), "without `tool_result`"),
        (called(user()), "without `tool_result`"),
        (called(user(TEXT, RESULT)), "must come first"),
        (called(user(RESULT, RESULT)), "single result"),
        (messages(user(RESULT), tools=[TOOL]), "unexpected `tool_use_id`"),
        (messages(user(), assistant(USE), user(RESULT)), "must define tools"),
        (messages(user(), assistant(USE, TEXT), user(RESULT), tools=[TOOL]), "must be last"),
        (called(user(RESULT), assistant(USE), user(RESULT)), "ids must be unique"),
        (messages(user(), assistant({**USE, "id": "a:b"}), user(RESULT), tools=[TOOL]), "tool_use.id"),
        (messages(user(), assistant({**USE, "name": "a b"}), user(RESULT), tools=[TOOL]), "tool_use.name"),
        (messages(user(), assistant({**USE, "input": "x"}), user(RESULT), tools=[TOOL]), "valid dictionary"),
        (called(user({**RESULT, "tool_use_id": ""})), "tool_use_id"),
        (called(user({**RESULT, "content": [{"type": "audio"}]})), "does not match"),
        (called(user(RESULT), thinking=BUDGET), "Expected `thinking`"),
        # marks
        (marked(MARK, MARK, MARK, MARK, MARK), "maximum of 4"),
        (marked(MARK, {"type": "ephemeral", "ttl": "1h"}), "must not come after"),
        (marked({}), "ephemeral"),
        (marked({"type": "ephemeral", "ttl": "2h"}), "ttl"),
        (marked({"type": "ephemeral", "scope": "x"}), "Extra inputs"),
        # pictures and documents
        (picture(data=PNG, media_type="image/heic"), "media_type"),
        (picture(data=PNG, media_type="image/jpeg"), "does not match the provided media type"),
        (picture(data="!!"), "Invalid base64"),
        (picture(data=""), "data: Field required"),
        (picture(data="A" * (MAX_IMAGE + 4)), "5 MB"),
        (
            messages(user(*[{"type": "image", "source": {"type": "url", "url": "https://x"}}] * 101)),
            "too many images",
        ),
        (messages(user({"type": "image", "source": {"type": "url", "url": "http://x"}})), "HTTPS"),
        (messages(user({"type": "image", "source": {"type": "s3"}})), "does not match"),
        (
            messages(user({"type": "document", "source": {"type": "base64", "media_type": "text/csv"}})),
            "application/pdf",
        ),
        (messages(user({"type": "document", "source": {"type": "text", "data": "x"}})), "text/plain"),
        (messages(user({"type": "search_result", "source": "s"})), "title"),
    ],
)
def test_what_is_refused(body: Any, words: str) -> None:
    complaint = refusal(body)
    assert complaint is not None
    assert words in complaint
