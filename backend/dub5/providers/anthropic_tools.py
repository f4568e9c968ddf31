"""Tools and the choice among them, for Anthropic's Messages API. Pure functions, no I/O.

Sources: https://platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools, …/strict-tool-use
"""

from __future__ import annotations

import re
from typing import Any

from dub5.providers import json_schemas
from dub5.providers.anthropic_content import cannot, each, mark, typed
from dub5.providers.claude_models import Claude
from dub5.providers.protocol import Json

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_OF_THEIR_OWN = re.compile(r"[a-z_]+_20\d{6}")
_FORCED = frozenset({"any", "tool"})
_ANYTHING: Json = {"type": "object", "properties": {}}


def tools(given: Json, model: Claude, used: list[str]) -> Json:
    """`tools` and `tool_choice`; `used` are the names of tools that the conversation calls.

    The API refuses such a conversation without tools: where the request brings none, those are named so that the
    model can read what was, and it is kept from calling them.
    """
    if "functions" in given:  # their answers have another shape, which ours lack
        raise cannot("functions", "the provider of this model knows `tools`")
    listed = _listed(given, model)
    choice = _choice(given.get("tool_choice"), listed)
    if not listed:
        if is_forced(choice):
            raise cannot("tool_choice", "only allowed where there are `tools`")
        if not used:
            return {}
        return {
            "tools": [{"name": name, "input_schema": _ANYTHING} for name in used],
            "tool_choice": {"type": "none"},
        }
    if is_forced(choice) and not model.forced:
        raise cannot("tool_choice", "this model cannot be made to call a tool")
    if given.get("parallel_tool_calls") is False:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    result = list(listed.values())
    return {"tools": result} if choice is None else {"tools": result, "tool_choice": choice}


def is_forced(choice: Json | None) -> bool:
    """Whether a `tool_choice` of this API demands a call."""
    return choice is not None and choice["type"] in _FORCED


def _listed(given: Json, model: Claude) -> dict[str, Json]:
    """The tools by name: of several with the same one the first, since the API refuses them."""
    result: dict[str, Json] = {}
    budgets = json_schemas.Budget(), json_schemas.Budget()
    for where, written in each(given, "tools"):
        tool = _tool(written, where, model, *budgets)
        result.setdefault(tool["name"], tool)
    return result


def _tool(
    tool: Json, where: str, model: Claude, budget: json_schemas.Budget, strictly: json_schemas.Budget
) -> Json:
    """`strictly` is spent on what is enforced; without it a tool goes through as one that is not strict."""
    kind = tool.get("type")
    if isinstance(kind, str) and _OF_THEIR_OWN.fullmatch(kind) and isinstance(tool.get("name"), str):
        return {name: value for name, value in tool.items() if name != "cache_control"} | mark(tool)
    if kind is None and "input_schema" in tool:  # as Anthropic's own API has them
        function, at = {**tool, "parameters": tool["input_schema"]}, where
    elif kind in ("function", None):
        function = typed(tool.get("function"), dict, f"{where}.function", "an object")
        at = f"{where}.function"
    else:
        raise cannot(f"{where}.type", "the provider of this model does not know it")
    name = typed(function.get("name"), str, f"{at}.name", "a string")
    if not _NAME.fullmatch(name):
        raise cannot(f"{at}.name", "must be of 1 to 128 letters, digits, `_` and `-`")
    result: Json = {"name": name}
    description = function.get("description")
    if isinstance(description, str) and description.strip():
        result["description"] = description
    schema = function.get("parameters") or _ANYTHING
    enforced = function.get("strict") is True and model.schemas
    exact = json_schemas.strict(schema, strictly) if enforced else None
    result["input_schema"] = json_schemas.parameters(exact or schema, f"{at}.parameters", budget)
    if exact is not None:
        result["strict"] = True
    return result | mark(tool)


def _choice(choice: Any, listed: dict[str, Json]) -> Json | None:
    """`tool_choice`; of `allowed_tools` those that are not leave `listed`."""
    match choice:
        case None:
            return None
        case "auto" | "none":
            return {"type": choice} if listed else None
        case "required" | "any":
            return {"type": "any"}
        case {"type": "auto" | "none" | "any" as kind}:
            return _choice(kind, listed)
        case {"type": "function", "function": {"name": str(name)}} | {
            "type": "function" | "tool",
            "name": str(name),
        }:
            if listed and name not in listed:
                raise cannot("tool_choice", f"`{name}` is not one of `tools`")
            return {"type": "tool", "name": name}
        case {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(allowed)},
        }:
            names = [each["function"]["name"] for each in allowed if _names_a_function(each)]
            for name in listed.keys() - set(names):
                del listed[name]
            return {"type": "auto" if mode == "auto" else "any"} if listed else None
    raise cannot("tool_choice", 'must be "auto", "none", "required", or name a function')


def _names_a_function(tool: Any) -> bool:
    match tool:
        case {"type": "function", "function": {"name": str()}}:
            return True
    return False
