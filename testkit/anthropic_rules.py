"""What Anthropic's Messages API refuses with a 400, as one pure function: `refusal(body)`, in the API's own words.

Taken from its public reference and from what people report of it in public; nothing of it is read from our own code.
Each rule names its source:

  ref       https://platform.claude.com/docs/en/api/messages and the types of the official client, anthropic 2.14
  errors    https://platform.claude.com/docs/en/api/errors
  guide     https://platform.claude.com/docs/en/about-claude/models/migration-guide, those of each model, and
            https://github.com/anthropics/skills (skills/claude-api/shared)
  thinking  https://platform.claude.com/docs/en/build-with-claude/thinking and …/extended-thinking
  caching   https://platform.claude.com/docs/en/build-with-claude/prompt-caching
  schemas   https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations
  tools     https://platform.claude.com/docs/en/agents-and-tools/tool-use/implement-tool-use
  vision    https://platform.claude.com/docs/en/build-with-claude/vision
  owner/repo#1   an issue or pull request on GitHub that quotes the refusal

Where a report and the reference differ, the stricter one is kept.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import jsonschema

Json = dict[str, Any]

MAX_REQUEST = 32 * 10**6
"""Bytes. errors: 413 request_too_large."""

MAX_IMAGE = 5 * 2**20
"""Bytes of base64. vision; theirs is of the base64 text."""

# ref: MessageCreateParams, those that need no beta header
_FIELDS = frozenset(
    {"model", "max_tokens", "messages", "system", "temperature", "top_p", "top_k", "stop_sequences", "stream"}
    | {"tools", "tool_choice", "metadata", "thinking", "output_config", "service_tier", "cache_control"}
    | {"container", "inference_geo"}
)
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # LibreChat-AI/agents#153, QwenLM/qwen-code#8160
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")  # ref, tools: ^[a-zA-Z0-9_-]{1,128}$
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")  # n8n-io/n8n#30590, anthropics/claude-code#79418
_SERVER_TOOL = re.compile(r"[a-z_]+_20\d{6}")  # ref: ToolUnion
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")  # ref: Base64ImageSource
_MAGIC = {
    "image/jpeg": b"\xff\xd8\xff",
    "image/png": b"\x89PNG",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
_EFFORTS = ("low", "medium", "high", "xhigh", "max")  # ref: OutputConfig


class _Refused(Exception):
    pass


def refusal(body: Any) -> str | None:
    """Why the API answers 400 to this body, None where it would not."""
    try:
        _check(body)
    except _Refused as refused:
        return str(refused)
    return None


def _demand(good: object, complaint: str) -> None:
    if not good:
        raise _Refused(complaint)


def _extra(given: Json, known: frozenset[str] | set[str], where: str) -> None:
    """theopenco/llmgateway#2068, amrit110/oli#7: unknown members are refused everywhere, not ignored."""
    for name in sorted(given.keys() - known):
        raise _Refused(f"{where}{name}: Extra inputs are not permitted")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# --- What a model takes ---


class _Model:
    """guide; the names are those of the client's ModelParam."""

    def __init__(self, name: str) -> None:
        found = re.search(r"claude-(opus|sonnet|haiku|fable|mythos)-(\d)(?:-(\d)(?!\d))?(?!\d)", name)
        old = re.search(r"claude-(\d)(?:-(\d))?-(opus|sonnet|haiku)", name)
        if found:
            family, version = found[1], (int(found[2]), int(found[3] or 0))
        elif old:
            family, version = old[3], (int(old[1]), int(old[2] or 0))
        else:  # a name of an own: what all models refuse
            family, version = "?", (0, 0)
        known, newest = version > (0, 0), version >= (5, 0)
        no_sampling = newest or (family == "opus" and version >= (4, 7))
        self.sampling = "none" if no_sampling else "one" if not known or version >= (4, 1) else "both"
        self.prefill = known and version < (4, 6)
        self.forced = not (version >= (5, 5) and family in {"opus", "sonnet"}) and not (
            family in {"fable", "mythos"} and version >= (5, 1)
        )
        self.structured = version >= (4, 5) or (family, version) == ("opus", (4, 1)) or not known
        self.most = self._most(family, version)
        self.images = 600 if version >= (4, 6) else 100  # 100 for contexts of 200k tokens
        self.thinking = self._thinking(family, version)
        self.efforts: tuple[str, ...] = ()
        if newest or (family, version) in {("opus", (4, 7)), ("opus", (4, 8))}:
            self.efforts = _EFFORTS
        elif version == (4, 6):
            self.efforts = ("low", "medium", "high", "max") if family == "opus" else ("low", "medium", "high")
        elif (family, version) == ("opus", (4, 5)):
            self.efforts = ("low", "medium", "high")
        elif not known:
            self.efforts = _EFFORTS
        self.restless = newest and family in {"opus", "haiku"} and "disabled" in self.thinking

    @staticmethod
    def _most(family: str, version: tuple[int, int]) -> int | None:
        """The largest `max_tokens`; models overview."""
        if version == (0, 0):
            return None
        if version >= (4, 6):
            return 128_000
        if version >= (4, 5):
            return 64_000
        if version >= (4, 0):
            return 32_000 if family == "opus" else 64_000
        return {(3, 7): 64_000, (3, 5): 8192}.get(version, 4096)

    @staticmethod
    def _thinking(family: str, version: tuple[int, int]) -> frozenset[str]:
        if version == (0, 0):
            return frozenset({"enabled", "disabled", "adaptive"})
        if family in {"fable", "mythos"} or (family == "opus" and version >= (5, 5)):
            return frozenset({"adaptive"})
        if family == "sonnet" and version >= (5, 5):
            return frozenset({"adaptive", "between_tools"})
        if version >= (5, 0) or (family == "opus" and version >= (4, 7)):
            return frozenset({"adaptive", "disabled"})
        if version >= (4, 6):
            return frozenset({"adaptive", "enabled", "disabled"})
        if version >= (3, 7):
            return frozenset({"enabled", "disabled"})
        return frozenset({"disabled"})


# --- The request ---


def _check(body: Any) -> None:
    _demand(isinstance(body, dict), "Input should be a valid dictionary")
    _extra(body, _FIELDS, "")
    _demand(len(json.dumps(body).encode()) <= MAX_REQUEST, "Request exceeds the maximum size")
    _demand(isinstance(body.get("model"), str) and body["model"], "model: Field required")
    model = _Model(body["model"])
    _demand(
        "stream" not in body or isinstance(body["stream"], bool), "stream: Input should be a valid boolean"
    )
    _check_limit(body, model)
    thinks = _check_thinking(body, model)
    _check_sampling(body, model, thinks)
    _check_stop(body)
    _check_metadata(body)
    _check_system(body)
    names = _check_tools(body, model)
    _check_choice(body, model, names, thinks)
    _check_output(body, model)
    _check_complexity(body)
    _check_messages(body, model, thinks)
    _check_marks(body)
    tier = body.get("service_tier", "auto")
    _demand(
        tier in {"auto", "standard_only"}, "service_tier: Input should be 'auto' or 'standard_only'"
    )  # ref


def _check_limit(body: Json, model: _Model) -> None:
    limit: Any = body.get("max_tokens")
    _demand("max_tokens" in body, "max_tokens: Field required")  # ref
    _demand(_whole(limit) and limit >= 1, "max_tokens: Input should be greater than or equal to 1")  # ref
    if model.most is not None:  # guide, errors: "max_tokens exceeds model's limit"
        _demand(
            limit <= model.most, f"max_tokens: {limit} > {model.most}, which is the maximum allowed number"
        )


def _check_thinking(body: Json, model: _Model) -> bool:
    """Whether the model is told to think."""
    if "thinking" not in body:
        return False
    thinking = body["thinking"]
    _demand(isinstance(thinking, dict), "thinking: Input should be an object")
    kind = thinking.get("type")
    members = {
        "enabled": {"type", "budget_tokens", "display"},
        "adaptive": {"type", "display"},
        "disabled": {"type"},
        "between_tools": {"type"},
    }
    _demand(isinstance(kind, str) and kind in members, "thinking.type: Input tag does not match")  # ref
    # guide: each model takes some of them; AAClause/nvda-OpenAI#126
    _demand(kind in model.thinking, f'"thinking.type.{kind}" is not supported for this model.')
    _extra(thinking, members[kind], f"thinking.{kind}.")
    display = thinking.get("display")
    _demand(display in {None, "summarized", "omitted"}, "thinking.display: Input should be 'summarized' or …")
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        _demand(_whole(budget), "thinking.enabled.budget_tokens: Field required")  # ref
        _demand(budget >= 1024, "thinking.enabled.budget_tokens: should be greater than or equal to 1024")
        # ref, thinking; BerriAI/litellm#9001
        _demand(budget < body["max_tokens"], "`max_tokens` must be greater than `thinking.budget_tokens`")
    effort = body["output_config"].get("effort") if isinstance(body.get("output_config"), dict) else None
    # guide: Opus 5, Haiku 5.5: off only at `high` or below
    _demand(
        not (kind == "disabled" and model.restless and effort in {"xhigh", "max"}),
        "thinking.disabled: effort",
    )
    return kind in {"enabled", "adaptive"}


def _check_sampling(body: Json, model: _Model, thinks: bool) -> None:
    for name in ("temperature", "top_p"):
        if name in body:
            _demand(_number(body[name]) and 0 <= body[name] <= 1, f"{name}: range: 0..1")  # ref
    if "top_k" in body:
        _demand(_whole(body["top_k"]) and body["top_k"] >= 1, "top_k: Input should be greater than 0")  # ref
    given = [name for name in ("temperature", "top_p", "top_k") if name in body]
    if model.sampling == "none" and given:  # guide; UKGovernmentBEIS/inspect_ai#3721, earendil-works/pi#7961
        raise _Refused(f"`{given[0]}` is deprecated for this model.")
    if model.sampling == "one":  # guide; open-webui/open-webui#17922, BerriAI/litellm#15097
        both = "temperature" in body and "top_p" in body
        _demand(not both, "`temperature` and `top_p` cannot both be specified for this model. Use only one.")
    if thinks:  # thinking
        _demand(
            body.get("temperature", 1) == 1, "`temperature` may only be set to 1 when thinking is enabled"
        )
        _demand("top_k" not in body, "`top_k` must be unset when thinking is enabled")
        _demand(body.get("top_p", 1) >= 0.95, "`top_p` must be >= 0.95 or unset when thinking is enabled")


def _check_stop(body: Json) -> None:
    stop = body.get("stop_sequences", [])
    _demand(isinstance(stop, list), "stop_sequences: Input should be a valid list")
    for each in stop:
        _demand(isinstance(each, str), "stop_sequences: Input should be a valid string")
        _demand(each, "stop_sequences: each stop sequence must be non-empty")  # MegaGrindStone/mcp-web-ui#5
        # BerriAI/litellm#3286
        _demand(each.strip(), "stop_sequences: each stop sequence must contain non-whitespace")


def _check_metadata(body: Json) -> None:
    if "metadata" not in body:
        return
    metadata = body["metadata"]
    _demand(isinstance(metadata, dict), "metadata: Input should be an object")
    _extra(metadata, {"user_id"}, "metadata.")
    user = metadata.get("user_id")
    if user is None:
        return
    _demand(isinstance(user, str), "metadata.user_id: Input should be a valid string")
    _demand(
        len(user) <= 256, "metadata.user_id: String should have at most 256 characters"
    )  # ref, vercel/ai#12419
    # BerriAI/litellm#10106
    _demand("@" not in user, "metadata.user_id: user_id appears to contain an email address.")
    phone = re.fullmatch(r"\+?[\d\s().-]{7,20}", user)  # ref: "do not include … phone number"
    _demand(phone is None, "metadata.user_id: user_id appears to contain a phone number.")


def _check_system(body: Json) -> None:
    if "system" not in body:
        return
    system = body["system"]
    if isinstance(system, str):
        _demand(system.strip(), "system: text content blocks must contain non-whitespace text")
        return
    _demand(isinstance(system, list), "system: Input should be a valid list")
    for index, block in enumerate(system):
        where = f"system.{index}"
        _demand(
            isinstance(block, dict) and block.get("type") == "text", f"{where}.type: Input should be 'text'"
        )
        _check_text(block, where)


# --- Tools ---


def _check_tools(body: Json, model: _Model) -> list[str]:
    if "tools" not in body:
        return []
    tools = body["tools"]
    _demand(isinstance(tools, list), "tools: Input should be a valid list")
    names = []
    for index, tool in enumerate(tools):
        where = f"tools.{index}"
        _demand(isinstance(tool, dict), f"{where}: Input should be an object")
        _demand(isinstance(tool.get("name"), str), f"{where}.name: Field required")
        names.append(tool["name"])
        kind = tool.get("type")
        if kind is not None and kind != "custom":
            found = isinstance(kind, str) and _SERVER_TOOL.fullmatch(kind)
            _demand(found, f"{where}: Input tag '{kind}' found using 'type' does not match")
            continue
        _check_tool(tool, f"{where}.custom", model)
    _demand(len(set(names)) == len(names), "tools: Tool names must be unique.")  # eclipse-theia/theia#16122
    return names


def _check_tool(tool: Json, where: str, model: _Model) -> None:
    known = {"type", "name", "description", "input_schema", "cache_control", "strict", "input_examples"}
    _extra(
        tool, known | {"allowed_callers", "defer_loading", "eager_input_streaming"}, f"{where}."
    )  # ref: ToolParam
    pattern = "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"
    _demand(_TOOL_NAME.fullmatch(tool["name"]), f"{where}.name: {pattern}")
    described = tool.get("description", "")
    _demand(isinstance(described, str), f"{where}.description: Input should be a valid string")
    _demand(isinstance(tool.get("strict", False), bool), f"{where}.strict: Input should be a valid boolean")
    schema = tool.get("input_schema")
    at = f"{where}.input_schema"
    _demand(isinstance(schema, dict), f"{at}: Field required")  # ref
    assert isinstance(schema, dict)
    _demand("type" in schema, f"{at}.type: Field required")  # ref
    _demand(schema["type"] == "object", f"{at}.type: Input should be 'object'")  # ref
    composed = {"oneOf", "allOf", "anyOf"} & schema.keys()
    # anthropics/claude-code#5973, dearlordylord/huly-mcp#66
    _demand(not composed, f"{at}: input_schema does not support oneOf, allOf, or anyOf at the top level")
    _check_json_schema(schema, at)
    for name in schema.get("properties", {}):
        pattern = "Property keys should match pattern '^[a-zA-Z0-9_.-]{1,64}$'"
        _demand(_PROPERTY.fullmatch(name), f"{at}.properties: {pattern}")
    if tool.get("strict"):
        _demand(
            model.structured, f"{where}.strict: Extra inputs are not permitted"
        )  # schemas: supported models
        _check_strict(schema, at)


def _check_choice(body: Json, model: _Model, names: list[str], thinks: bool) -> None:
    if "tool_choice" not in body:
        return
    choice = body["tool_choice"]
    _demand(isinstance(choice, dict), "tool_choice: Input should be an object")
    kind = choice.get("type")
    _demand(kind in {"auto", "any", "tool", "none"}, "tool_choice: Input tag does not match")
    known = {"auto": {"disable_parallel_tool_use"}, "any": {"disable_parallel_tool_use"}, "none": set()}
    _extra(choice, known.get(kind, {"disable_parallel_tool_use", "name"}) | {"type"}, f"tool_choice.{kind}.")
    _demand(names, "tool_choice: may only be specified while providing `tools`")  # ref: "the provided tools"
    if kind == "tool":
        _demand(choice.get("name") in names, "tool_choice.tool: not found in provided tools")
    if kind in {"any", "tool"}:
        _demand(not thinks, "Thinking may not be enabled when tool_choice forces tool use.")  # thinking
        # guide: Opus 5.5, Sonnet 5.5, Fable 5.1 and later
        _demand(model.forced, f'tool_choice: "{kind}" is not supported for this model')


# --- Schemas ---


def _check_json_schema(schema: Json, where: str) -> None:
    """tools: "JSON schema is invalid. It must match JSON Schema draft 2020-12"; anthropics/anthropic-sdk-java#241."""
    complaint = _complaint_about_schema(json.dumps({**schema, "$schema": _DRAFT}))
    _demand(complaint is None, f"{where}: JSON schema is invalid: {complaint}")


_DRAFT = "https://json-schema.org/draft/2020-12/schema"


@lru_cache(maxsize=10_000)
def _complaint_about_schema(written: str) -> str | None:
    try:
        jsonschema.Draft202012Validator.check_schema(json.loads(written))
    except jsonschema.SchemaError as error:
        return error.message[:200]
    for pattern in _patterns(json.loads(written)):
        try:
            re.compile(pattern)
        except re.error:
            return f"{pattern!r} is not a 'regex'"
    return None


def _patterns(schema: Any) -> Iterator[str]:
    """Of a schema as the generator of requests writes them: in properties and items."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for each in [*dict(schema.get("properties") or {}).values(), schema.get("items")]:
            yield from _patterns(each)


_STRICT = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems"},
    "string": {"format"},
}
_ANYWHERE = {
    "type",
    "title",
    "description",
    "default",
    "enum",
    "const",
    "anyOf",
    "allOf",
    "$ref",
    "$defs",
    "definitions",
    "$schema",  # vercel/ai#14790, tried against the real API, leaves it in
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}


def _check_strict(schema: Any, where: str) -> None:
    """schemas; the client's own lib/_parse/_transform.py; ax-llm/ax#458, veryfront/veryfront-code#3918."""
    _demand(isinstance(schema, dict), f"{where}: schema must be an object")
    _check_json_schema(schema, where)
    roots = {
        f"#/{name}/{key}": each
        for name in ("$defs", "definitions")
        for key, each in (schema.get(name) or {}).items()
    }
    for reference, each in roots.items():
        _walk_strict(each, where, roots, (reference,))
    _walk_strict(schema, where, roots, ())


def _walk_strict(schema: Any, where: str, roots: Json, inside: tuple[str, ...]) -> None:
    _demand(isinstance(schema, dict), f"{where}: boolean schemas are not supported")
    if "$ref" in schema:
        reference = schema["$ref"]
        _demand(reference in roots, f"{where}: external $ref is not supported")
        _demand(reference not in inside, f"{where}: Recursive schemas are not supported")
        _walk_strict(roots[reference], where, roots, (*inside, reference))
        return
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    speaks = kinds or {"anyOf", "allOf", "enum", "const"} & schema.keys()
    _demand(speaks, f"{where}: Schema must have a type")
    allowed = set(_ANYWHERE).union(*(_STRICT.get(kind, ()) for kind in kinds))
    odd = sorted(schema.keys() - allowed)
    _demand(not odd, f"{where}: For '{kinds}' type, properties {', '.join(odd)} are not supported")
    if "object" in kinds:
        closed = schema.get("additionalProperties") is False
        _demand(closed, f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    _demand(schema.get("format", "date") in _FORMATS, f"{where}: format is not supported")
    _demand(
        schema.get("minItems", 0) in {0, 1}, f"{where}: minItems values other than 0 or 1 are not supported"
    )
    simple = all(each is None or isinstance(each, (str, int, float)) for each in schema.get("enum", []))
    _demand(simple, f"{where}: complex types in enums are not supported")
    for child in _children(schema):
        _walk_strict(child, where, roots, inside)


def _children(schema: Json) -> Iterator[Any]:
    yield from (schema.get("properties") or {}).values()
    if "items" in schema:
        yield schema["items"]
    for name in ("anyOf", "allOf"):
        yield from schema.get(name) or ()


def _complexity(schema: Any) -> tuple[int, int]:
    """How many optional parameters, and how many of a union type."""
    if not isinstance(schema, dict):
        return 0, 0
    optional = len(schema.get("properties", {}).keys() - set(schema.get("required", ())))
    unions = int("anyOf" in schema or isinstance(schema.get("type"), list))
    definitions = [each for name in ("$defs", "definitions") for each in (schema.get(name) or {}).values()]
    for child in [*_children(schema), *definitions]:
        more = _complexity(child)
        optional, unions = optional + more[0], unions + more[1]
    return optional, unions


def _check_complexity(body: Json) -> None:
    """schemas; vercel/ai#17268: over all strict schemas of a request."""
    strict = [tool["input_schema"] for tool in body.get("tools", ()) if tool.get("strict")]
    _demand(len(strict) <= 20, "tools: too many strict tools (limit: 20)")
    if body.get("output_config", {}).get("format"):
        strict.append(body["output_config"]["format"]["schema"])
    counted = [_complexity(schema) for schema in strict]
    optional, unions = sum(each[0] for each in counted), sum(each[1] for each in counted)
    _demand(optional <= 24, "Schemas contains too many optional parameters (limit: 24)")
    _demand(unions <= 16, "Schemas contains too many parameters with union types (limit: 16)")


def _check_output(body: Json, model: _Model) -> None:
    if "output_config" not in body:
        return
    given = body["output_config"]
    _demand(isinstance(given, dict), "output_config: Input should be an object")
    _extra(given, {"effort", "format"}, "output_config.")  # ref
    effort = given.get("effort")
    if effort is not None:
        _demand(model.efforts, "output_config.effort: This model does not support the effort parameter.")
        _demand(effort in model.efforts, f"output_config.effort: {effort!r} is not supported for this model")
    shape = given.get("format")
    if shape is None:
        return
    _demand(isinstance(shape, dict), "output_config.format: Input should be an object")
    _extra(shape, {"type", "schema"}, "output_config.format.")
    _demand(shape.get("type") == "json_schema", "output_config.format.type: Input should be 'json_schema'")
    _demand(model.structured, "output_config.format: not supported for this model")  # laurent22/joplin#15801
    schema = shape.get("schema")
    _demand(isinstance(schema, dict), "output_config.format.schema: Field required")
    _check_strict(schema, "output_config.format.schema")
    for turn in body["messages"]:  # guide: citations + structured outputs
        for block in turn["content"] if isinstance(turn["content"], list) else ():
            cited = block.get("citations")
            _demand(
                not (isinstance(cited, dict) and cited.get("enabled")), "citations with output_config.format"
            )


# --- Messages ---


def _check_messages(body: Json, model: _Model, thinks: bool) -> None:
    messages = body.get("messages")
    _demand(isinstance(messages, list), "messages: Field required")
    assert isinstance(messages, list)
    _demand(messages, "messages: at least one message is required")
    _demand(len(messages) <= 100_000, "messages: too many messages")  # ref
    turns = [_turn(turn, index) for index, turn in enumerate(messages)]
    _demand(
        turns[0][0] == "user", 'messages: first message must use the "user" role'
    )  # guide: error-codes.md
    for (one, _), (other, _) in pairwise(turns):  # guide: error-codes.md
        _demand(one != other, 'messages: roles must alternate between "user" and "assistant"')
    _check_pairs(turns, body)
    role, blocks = turns[-1]
    if role == "assistant":
        _demand(model.prefill, "Prefilling assistant messages is not supported for this model.")  # errors
        _demand(not thinks, "Prefilling is not supported with thinking")  # thinking
        shaped = (body.get("output_config") or {}).get("format")
        _demand(not shaped, "Prefilling is not supported with structured outputs")  # schemas
        thought = any(block["type"] in {"thinking", "redacted_thinking"} for block in blocks)
        # tailcallhq/forgecode#1853
        _demand(
            not thought, "When thinking is disabled, an `assistant` message in the final position cannot …"
        )
        last = blocks[-1]
        if last["type"] == "text":  # tailcallhq/forgecode#1872, langchain-ai/langchain#35071
            ended = last["text"] == last["text"].rstrip()
            _demand(ended, "messages: final assistant content cannot end with trailing whitespace")
    if isinstance(body.get("thinking"), dict) and body["thinking"].get("type") == "enabled":
        _check_thought(turns)
    images = sum(block["type"] == "image" for _, blocks in turns for block in _deep(blocks))
    _demand(images <= model.images, f"messages: too many images (limit: {model.images})")  # vision


def _deep(blocks: list[Json]) -> Iterator[Json]:
    for block in blocks:
        yield block
        if block["type"] == "tool_result" and isinstance(block.get("content"), list):
            yield from block["content"]


def _turn(turn: Any, index: int) -> tuple[str, list[Json]]:
    where = f"messages.{index}"
    _demand(isinstance(turn, dict), f"{where}: Input should be an object")
    _extra(turn, {"role", "content"}, f"{where}.")
    role = turn.get("role")
    _demand(role in {"user", "assistant"}, f"{where}.role: Input should be 'user' or 'assistant'")
    content = turn.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    _demand(isinstance(content, list), f"{where}.content: Field required")
    assert isinstance(content, list)
    _demand(
        content, f"{where}: all messages must have non-empty content"
    )  # errors; anthropics/claude-code#6774
    for position, block in enumerate(content):
        at = f"{where}.content.{position}"
        _demand(isinstance(block, dict), f"{at}: Input should be an object")
        kind = block.get("type")
        _demand(isinstance(kind, str) and kind in _BLOCKS[role], f"{at}: Input tag '{kind}' does not match")
        _BLOCKS[role][kind](block, at)
    last = content[-1]["type"]
    _demand(  # tailcallhq/forgecode#2107, NousResearch/hermes-agent#16921
        role != "assistant" or last not in {"thinking", "redacted_thinking"},
        f"{where}: The final block in an assistant message cannot be `thinking`.",
    )
    return role, content


def _check_text(block: Json, where: str) -> None:
    _extra(block, {"type", "text", "cache_control", "citations"}, f"{where}.text.")
    _demand(isinstance(block.get("text"), str), f"{where}.text: Field required")
    _demand(block["text"], "text content blocks must be non-empty")  # anthropics/claude-code#59812
    # anthropics/claude-code#23369, LibreChat-AI/agents#124; caching: no mark on empty text
    _demand(block["text"].strip(), "text content blocks must contain non-whitespace text")


def _check_image(block: Json, where: str) -> None:
    _extra(block, {"type", "source", "cache_control", "transformations"}, f"{where}.image.")
    source = block.get("source")
    _demand(isinstance(source, dict), f"{where}.source: Field required")
    assert isinstance(source, dict)
    kind = source.get("type")
    if kind == "base64":
        _extra(source, {"type", "media_type", "data"}, f"{where}.source.base64.")
        _demand(
            source.get("media_type") in _IMAGE_TYPES, f"{where}.source.base64.media_type: Input should be …"
        )
        _check_image_data(source.get("data"), source["media_type"], where)
    elif kind == "url":
        _extra(source, {"type", "url"}, f"{where}.source.url.")
        url = source.get("url")
        # AidenAI-IO/aiden-firmware#504: http is refused
        _demand(
            isinstance(url, str) and re.match(r"https://[^/\s]", url),
            f"{where}: Only HTTPS URLs are supported.",
        )
    else:
        _demand(kind == "file", f"{where}.source: Input tag '{kind}' does not match")
        _demand(isinstance(source.get("file_id"), str), f"{where}.source.file_id: Field required")


def _check_image_data(data: Any, media_type: str, where: str) -> None:
    at = f"{where}.image.source.base64"
    _demand(isinstance(data, str) and data, f"{at}.data: Field required")
    _demand(len(data) <= MAX_IMAGE, f"{at}: image exceeds 5 MB maximum: {len(data)} bytes")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _Refused(f"{at}.data: Invalid base64 data") from None
    for kind, magic in _MAGIC.items():  # BerriAI/litellm#24900, anthropics/claude-code#15746
        if content.startswith(magic):
            _demand(kind == media_type, f"{at}: Image does not match the provided media type {media_type}")


def _check_document(block: Json, where: str) -> None:
    _extra(block, {"type", "source", "cache_control", "citations", "context", "title"}, f"{where}.document.")
    source = block.get("source")
    _demand(isinstance(source, dict), f"{where}.source: Field required")
    assert isinstance(source, dict)
    kind = source.get("type")
    _demand(kind in {"base64", "text", "content", "url", "file"}, f"{where}.source: Input tag does not match")
    if kind == "base64":
        _demand(source.get("media_type") == "application/pdf", f"{where}.source.media_type: application/pdf")
        data = source.get("data")
        _demand(
            isinstance(data, str) and re.fullmatch(r"[A-Za-z0-9+/]+=*", data), f"{where}.source.data: base64"
        )
    if kind == "text":
        _demand(source.get("media_type") == "text/plain", f"{where}.source.media_type: text/plain")
        _demand(isinstance(source.get("data"), str), f"{where}.source.data: Field required")
    title = block.get("title")
    _demand(title is None or (isinstance(title, str) and 1 <= len(title) <= 500), f"{where}.title: length")


def _check_use(block: Json, where: str) -> None:
    _extra(block, {"type", "id", "name", "input", "cache_control", "caller"}, f"{where}.tool_use.")
    found = isinstance(block.get("id"), str) and _ID.fullmatch(block["id"])
    _demand(found, f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    named = isinstance(block.get("name"), str) and _TOOL_NAME.fullmatch(block["name"])
    _demand(named, f"{where}.tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    # prism-php/prism#659, anthropics/claude-code#6695
    _demand(
        isinstance(block.get("input"), dict), f"{where}.tool_use.input: Input should be a valid dictionary"
    )


def _check_result(block: Json, where: str) -> None:
    _extra(block, {"type", "tool_use_id", "content", "is_error", "cache_control"}, f"{where}.tool_result.")
    found = isinstance(block.get("tool_use_id"), str) and _ID.fullmatch(block["tool_use_id"])
    _demand(found, f"{where}.tool_result.tool_use_id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    content = block.get("content", "")
    if isinstance(content, str):
        return
    _demand(isinstance(content, list), f"{where}.tool_result.content: Input should be a valid list")
    for index, part in enumerate(content):
        at = f"{where}.tool_result.content.{index}"
        _demand(isinstance(part, dict), f"{at}: Input should be an object")
        check = {"text": _check_text, "image": _check_image, "document": _check_document}.get(
            part.get("type")
        )
        _demand(check is not None or part.get("type") == "search_result", f"{at}: Input tag does not match")
        if check is not None:
            check(part, at)


def _check_thinking_block(block: Json, where: str) -> None:
    _extra(block, {"type", "thinking", "signature"}, f"{where}.thinking.")  # caching: no mark on thinking
    _demand(isinstance(block.get("thinking"), str), f"{where}.thinking.thinking: Field required")
    signed = isinstance(block.get("signature"), str) and block["signature"]
    _demand(
        signed, f"{where}.thinking.signature: Field required"
    )  # ref; "Invalid `signature` in `thinking` block"


def _check_redacted(block: Json, where: str) -> None:
    _extra(block, {"type", "data"}, f"{where}.redacted_thinking.")
    _demand(
        isinstance(block.get("data"), str) and block["data"],
        f"{where}.redacted_thinking.data: Field required",
    )


def _check_search_result(block: Json, where: str) -> None:
    _extra(
        block, {"type", "source", "title", "content", "cache_control", "citations"}, f"{where}.search_result."
    )
    for name in ("source", "title"):
        _demand(isinstance(block.get(name), str), f"{where}.search_result.{name}: Field required")
    _demand(isinstance(block.get("content"), list) and block["content"], f"{where}.search_result.content")
    for part in block["content"]:
        _demand(isinstance(part, dict) and part.get("type") == "text", f"{where}.search_result.content: text")
        _check_text(part, where)


_BLOCKS: dict[str, dict[str, Any]] = {
    "user": {
        "text": _check_text,
        "image": _check_image,
        "document": _check_document,
        "tool_result": _check_result,
        "search_result": _check_search_result,
    },
    "assistant": {
        "text": _check_text,
        "tool_use": _check_use,
        "thinking": _check_thinking_block,
        "redacted_thinking": _check_redacted,
    },
}


def _check_pairs(turns: list[tuple[str, list[Json]]], body: Json) -> None:
    """Results come first in the turn after their uses, one each; anthropics/claude-code#8210, #18947."""
    seen: set[str] = set()
    for index, (_, blocks) in enumerate(turns):
        uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
        for each in uses:
            _demand(each not in seen, f"messages.{index}: `tool_use` ids must be unique")  # trycua/cua#524
            seen.add(each)
        if uses:  # stricter than the reference
            kinds = [block["type"] for block in blocks]
            _demand(
                all(kind == "tool_use" for kind in kinds[kinds.index("tool_use") :]),
                "tool_use blocks must be last",
            )
        after = turns[index + 1][1] if index + 1 < len(turns) else []
        answered = [block["tool_use_id"] for block in after if block["type"] == "tool_result"]
        missing = [each for each in uses if each not in answered]
        _demand(
            not missing,
            f"messages.{index}: `tool_use` ids were found without `tool_result` blocks: {missing}",
        )
    for index, (_, blocks) in enumerate(turns):
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        before = turns[index - 1][1] if index else []
        known = {block["id"] for block in before if block["type"] == "tool_use"}
        for each in results:
            _demand(
                each in known,
                f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks: {each}",
            )
        # tools: one result for each use
        _demand(
            len(set(results)) == len(results), f"messages.{index}: each tool_use must have a single result."
        )
        first = [block["type"] == "tool_result" for block in blocks]
        _demand(
            first == sorted(first, reverse=True), f"messages.{index}: tool_result blocks must come first"
        )  # tools
    has = any(block["type"] in {"tool_use", "tool_result"} for _, blocks in turns for block in blocks)
    # UKGovernmentBEIS/inspect_ai#176
    _demand(
        not has or body.get("tools"),
        "Requests which include `tool_use` or `tool_result` blocks must define tools",
    )


def _check_thought(turns: list[tuple[str, list[Json]]]) -> None:
    """thinking; pydantic/pydantic-ai#2075, openai/openai-agents-python#1704.

    An assistant's turn goes on over the results of its tools: its first message begins with what was thought.
    """
    if turns[-1][0] != "user" or not any(block["type"] == "tool_result" for block in turns[-1][1]):
        return
    index = len(turns) - 2
    while index >= 2 and all(block["type"] == "tool_result" for block in turns[index - 1][1]):
        index -= 2
    first = turns[index][1][0]["type"]
    _demand(
        first in {"thinking", "redacted_thinking"},
        f"messages.{index}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{first}`.",
    )


# --- Marks of the prompt cache ---


def _check_marks(body: Json) -> None:
    marks = [mark for mark in _marks(body) if mark is not None]
    for mark in marks:
        _demand(isinstance(mark, dict), "cache_control: Input should be an object")
        _extra(mark, {"type", "ttl"}, "cache_control.ephemeral.")
        _demand(mark.get("type") == "ephemeral", "cache_control: Input tag does not match 'ephemeral'")
        _demand(
            mark.get("ttl", "5m") in {"5m", "1h"}, "cache_control.ephemeral.ttl: Input should be '5m' or '1h'"
        )
    # caching; BerriAI/litellm#30480, router-for-me/CLIProxyAPI#1372
    found = f"A maximum of 4 blocks with cache_control may be provided. Found {len(marks)}."
    _demand(len(marks) <= 4, found)
    longs = [mark.get("ttl") == "1h" for mark in marks if mark is not body.get("cache_control")]
    # caching; theopenco/llmgateway#2629
    ordered = longs == sorted(longs, reverse=True)
    _demand(ordered, "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block")


def _marks(body: Json) -> Iterator[Any]:
    """In the order of the cached prefix: tools, system, messages."""
    yield from (tool.get("cache_control") for tool in body.get("tools", ()))
    system = body.get("system")
    yield from (block.get("cache_control") for block in (system if isinstance(system, list) else ()))
    for turn in body["messages"]:
        for block in turn["content"] if isinstance(turn["content"], list) else ():
            inner = block.get("content")
            parts = inner if block["type"] == "tool_result" and isinstance(inner, list) else ()
            yield from (part.get("cache_control") for part in parts)
            yield block.get("cache_control")
    yield body.get("cache_control")
