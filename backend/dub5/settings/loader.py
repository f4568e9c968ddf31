"""From a YAML file and the environment to `Settings`, with errors that name the key.

Order of precedence: `DUB5_SECTION__KEY` in the environment, the file, the defaults. The file is read once,
before the event loop starts.

msgspec does the conversion. Before it, `_examine` walks the written data and the types together and answers
what msgspec would say less well: an unknown key with its nearest neighbour, a secret written inline, a word
that is none of the allowed ones, and the name of the entry where something is wrong.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from dub5.errors import ConfigError
from dub5.settings.model import Duration, Settings, Size, Source, is_text, read_file, validate
from dub5.settings.schema import as_written, schema

__all__ = ["convert", "load", "nearest", "parse_yaml", "schema", "section"]

T = TypeVar("T")

_PREFIX = "DUB5_"


_MOST_VALUES = 1_000_000
"""Of one text, with what its aliases stand for: a value takes about half a kilobyte while it is read."""

_DEEPEST = 100
_LARGE = 64 * 2**10
"""Characters from which on libyaml reads, where it is there: four times as fast, but with errors that say less."""


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key written twice is an error: the second would silently win."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same with libyaml."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        # What is no scalar can be no key: constructing it says so.
        written = (key.tag, str(key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        if written in seen:
            # Not its name: in the file of callers' keys it may be a key in the clear.
            raise ConfigError(f"line {key.start_mark.line + 1}: this key is written twice")
        seen.add(written)
    return loader.construct_mapping(node, deep=True)


def _exponential(_: yaml.SafeLoader, node: yaml.ScalarNode) -> float | str:
    """`1e-07`, as Helm writes 0.0000001: a number in YAML 1.2, and text in PyYAML's 1.1. A whole one is an int."""
    number = float(node.value)
    if not math.isfinite(number):
        return str(node.value)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


for _loader in (_StrictLoader, _FastLoader):
    _loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
    _loader.add_implicit_resolver(
        "!exponential", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+\Z", re.ASCII), [*"-+0123456789"]
    )
    _loader.add_constructor("!exponential", _exponential)


def parse_yaml(text: str) -> Any:
    """YAML to plain data; ConfigError with the line where it is malformed or a key is written twice.

    ConfigError also where it has too many values, or would have if its aliases were written out, or is nested too deep.
    """
    try:
        _check_size(text)
        return yaml.load(text, Loader=_FastLoader if len(text) > _LARGE else _StrictLoader)  # noqa: S506  # SafeLoaders
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{where}not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ConfigError(
            f"not valid YAML: a value looks like a number or date and is none ({error}); put it in quotes"
        ) from None
    except (ArithmeticError, AttributeError, LookupError):  # of PyYAML's constructors, which check little
        raise ConfigError(
            "not valid YAML: a value is none of what its tag (`!!bool`, `!!timestamp`, …) or escape says"
        ) from None
    except RecursionError:
        raise ConfigError("not valid YAML: nested too deep") from None


def parse_yaml_of(where: str, text: str) -> Any:
    """`parse_yaml`, whose ConfigError says where the text stands."""
    try:
        return parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}") from None


def _check_size(text: str) -> None:
    """Before anything is made of it: libyaml builds values by a recursion that no error of Python's ends."""
    values = 0
    opened: list[tuple[str | None, int]] = []  # the anchor of each collection, and the values before it
    sizes: dict[str, int] = {}  # of what has an anchor
    try:
        for event in yaml.parse(text, Loader=_FastLoader):
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, before = opened.pop()
                if anchor is not None:
                    sizes[anchor] = values - before
            elif isinstance(event, yaml.NodeEvent):
                if isinstance(event, yaml.CollectionStartEvent):
                    opened.append((event.anchor, values))
                elif isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
                    sizes[event.anchor] = 1
                values += sizes.get(event.anchor or "", 1) if isinstance(event, yaml.AliasEvent) else 1
                if values > _MOST_VALUES:
                    raise ConfigError(f"not valid YAML here: more than {_MOST_VALUES} values")
                if len(opened) > _DEEPEST:
                    raise ConfigError("not valid YAML: nested too deep")
    except (yaml.YAMLError, UnicodeError):
        return  # what reads it will say it better


def load(path: Path | None, environment: Mapping[str, str]) -> Settings:
    """Read, merge, convert and validate. ConfigError says what is wrong and what to write instead."""
    written = {} if path is None else _read(path)
    overrides = {
        name: value for name, value in environment.items() if name.startswith(_PREFIX) and "__" in name
    }
    _begin_with_defaults(written, overrides)
    origins = {_override(written, name, value): name for name, value in sorted(overrides.items())}
    try:
        return convert(written)
    except ConfigError as error:
        raise ConfigError(error.message + _from_environment(error.message, origins)) from None


def convert(written: dict[str, Any]) -> Settings:
    """Plain data to validated `Settings`."""
    _examine(written, Settings, "")
    settings: Settings = _convert(written, Settings, "")
    if "models" not in written and "demo" not in settings.providers:
        raise ConfigError(
            "models: missing; say what the providers have, as {NAME: {routes: [provider/model]}}"
        )
    if "personalities" not in written and not settings.default_model:  # the built-in ones need a model
        settings = msgspec.structs.replace(settings, personalities={})
    validate(settings)
    return settings


def section(written: Any, kind: type[T]) -> T:
    """Plain data to a closed Struct that is no part of `Settings`; ConfigError names the key."""
    _examine(written, kind, "")
    converted: T = _convert(written, kind, "")
    return converted


def read_text(what: str, path: Path) -> str:
    """A file as `read_file` has it; ConfigError where it cannot be read as UTF-8."""
    try:
        return read_file(what, path).decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: not UTF-8 at byte {error.start}") from None


def _read(path: Path) -> dict[str, Any]:
    written = parse_yaml_of(str(path), read_text("the configuration", path))
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise ConfigError(f"{path}: the configuration must be a mapping of sections")
    return written


def _begin_with_defaults(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """A variable may change a built-in entry (`DUB5_PROVIDERS__DEMO__…`): then it must be there to change."""
    for section, entries in as_written(_named_defaults()).items():
        stems = tuple(f"{_PREFIX}{section}__{name}__".upper() for name in entries)
        if section not in tree and any(variable.upper().startswith(stems) for variable in overrides):
            tree[section] = entries


def _named_defaults() -> dict[str, Any]:
    defaults = Settings()
    return {
        "providers": defaults.providers,
        "models": defaults.models,
        "personalities": defaults.personalities,
    }


def _override(tree: dict[str, Any], variable: str, value: str) -> str:
    """Put `DUB5_A__B=value` at tree["a"]["b"]; returns the key's path, as errors name it."""
    node: dict[Any, Any] = tree
    path: list[str] = []
    *parents, last = variable.removeprefix(_PREFIX).split("__")
    for part in parents:
        key = _spelling(part, node)
        path.append(key)
        section = {} if node.get(key) is None else node[key]
        if not isinstance(section, dict):
            raise ConfigError(f"{variable}: {'.'.join(path)} is not a section")
        node[key] = node = dict(section)  # an alias of the file may have it in other places, too
    key = _spelling(last, node)
    node[key] = _value_of(variable, value)
    return ".".join([*path, key])


def _spelling(part: str, node: Mapping[Any, Any]) -> str:
    """Environment variables cannot say `gpt-4o`: GPT_4O finds it where the file already has it."""
    wanted = part.lower()
    same = (key for key in node if isinstance(key, str) and _as_variable(key) == wanted)
    return next(same, wanted)


def _as_variable(key: str) -> str:
    return re.sub(r"[-.:/+~=*]", "_", key.lower())


def _value_of(variable: str, text: str) -> Any:
    """Numbers, true, null, quoted text, [lists] and {mappings} as in YAML; all else is text as it stands."""
    try:
        parsed = parse_yaml(text)
    except ConfigError as error:
        if text.startswith(("[", "{", '"', "'")):
            raise ConfigError(f"{variable}: {error.message}") from None
        return text
    plain = not text.startswith(("[", "{", '"', "'"))
    return text if plain and not isinstance(parsed, bool | int | float | None) else parsed


def _from_environment(message: str, origins: Mapping[str, str]) -> str:
    """Which variable is to blame, where one is: a reader of the file would search in vain."""
    key = f"{message.partition(': ')[0]}.".replace("[", ".")
    names = [name for path, name in origins.items() if _related(f"{path}.", key)]
    return f" (set by {', '.join(names)})" if names else ""


def _related(path: str, other: str) -> bool:
    return path.startswith(other) or other.startswith(path)


def _convert(written: Any, kind: Any, where: str) -> Any:
    """msgspec's conversion, with its "… - at `$.a.b[0]`" turned round: "a.b[0]: …"."""
    try:
        return msgspec.convert(written, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        key = f"{where}{place.rstrip('`')}".lstrip(".")
        raise ConfigError(f"{key}: {text}" if key else text) from None


def _decode(kind: type[Duration] | type[Size], written: Any) -> Duration | Size:
    return kind.parse(written)


def _examine(written: Any, kind: Any, where: str) -> None:
    """Walk data and types together; `where` is the path of `written`, empty at the top."""
    kind = _meant(written, kind, where)
    origin = get_origin(kind)
    if origin is dict and isinstance(written, dict):
        key_kind, value_kind = get_args(kind)
        _examine_entries(written, key_kind, value_kind, where)
    elif origin is list and isinstance(written, list):
        for index, value in enumerate(written):
            _examine(value, get_args(kind)[0], f"{where}[{index}]")
    elif origin is Literal and written is not None:
        _examine_word(written, get_args(kind), where)
    elif _is_section(kind):
        _examine_section(written, kind, where)
    elif kind in {Any, None} or isinstance(written, str | float):
        _examine_json(written, where)


def _examine_json(written: Any, where: str) -> None:
    """What is handed on as it stands has to be what JSON can say."""
    if isinstance(written, str):
        if not is_text(written):
            raise ConfigError(f"{where}: holds half of a character, or bytes that are not UTF-8")
    elif isinstance(written, list):
        for index, value in enumerate(written):
            _examine_json(value, f"{where}[{index}]")
    elif isinstance(written, dict):
        for key, value in written.items():
            _examine_name(key, str, where)
            _examine_json(value, _joined(where, key))
    elif isinstance(written, float) and not math.isfinite(written):
        raise ConfigError(f"{where}: `{written}` is not a finite number")
    elif not isinstance(written, bool | int | float | None):
        raise ConfigError(f"{where}: `{written}` is read as a {type(written).__name__}; put it in quotes")


def _examine_entries(written: dict[Any, Any], key_kind: Any, value_kind: Any, where: str) -> None:
    """Entries whose names are the operator's own."""
    for key, value in written.items():
        _examine_name(key, key_kind, where)
        _examine(value, value_kind, _joined(where, key))
        _convert(value, value_kind, _joined(where, key))


def _examine_name(key: Any, kind: Any, where: str) -> None:
    if not isinstance(key, str):
        raise ConfigError(f"{where}: the key `{key}` is not text; put it in quotes")
    if not is_text(key):
        raise ConfigError(f"{where}: a key holds half of a character, or bytes that are not UTF-8")
    try:
        msgspec.convert(key, kind)
    except msgspec.ValidationError:
        allowed = get_args(kind)[1].description
        raise ConfigError(
            f"{where}: `{key}` cannot be a name; use at most 100 {allowed}, and begin with a letter or digit"
        ) from None


def _examine_word(written: Any, allowed: tuple[str, ...], where: str) -> None:
    if not isinstance(written, str):
        raise ConfigError(f"{where}: must be one of {', '.join(allowed)}")
    if written not in allowed:
        raise ConfigError(f"{where}: `{written}` is not one of {', '.join(allowed)}")


def _examine_section(written: Any, kind: type[msgspec.Struct], where: str) -> None:
    if kind is Source and isinstance(written, str):
        raise ConfigError(f"{where}: secrets are never inline; write {{env: NAME}} or {{file: PATH}}")
    if not isinstance(written, dict):
        return
    fields = _fields(kind)
    tag_field = kind.__struct_config__.tag_field
    for key, value in written.items():
        if key in fields:
            _examine(value, fields[key], _joined(where, key))
        elif tag_field is None or key != tag_field:
            raise ConfigError(f"{_joined(where, key)}: unknown key{nearest(str(key), fields)}")


@functools.cache  # finding out is most of what reading a configuration costs
def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Their types by their names, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in msgspec.structs.fields(kind)}


def _meant(written: Any, kind: Any, where: str) -> Any:
    """`kind` without annotations; of a union the member that the data means."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) not in {Union, types.UnionType}:
        return kind
    members = [member for member in get_args(kind) if member is not types.NoneType]
    if len(members) == 1:
        return _meant(written, members[0], where)
    tagged = {member.__struct_config__.tag: member for member in members if _is_section(member)}
    return _tagged(written, tagged, where) if tagged and isinstance(written, dict) else None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _tagged(written: dict[Any, Any], members: Mapping[str, Any], where: str) -> Any:
    """The Struct that `kind: …` names."""
    choice = ", ".join(members)
    if "kind" not in written:
        raise ConfigError(f"{_joined(where, 'kind')}: missing; one of {choice}")
    tag = written["kind"]
    if not isinstance(tag, str):
        raise ConfigError(f"{_joined(where, 'kind')}: must be one of {choice}")
    _examine_word(tag, tuple(members), _joined(where, "kind"))
    return members[tag]


def _joined(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def nearest(key: str, known: Iterable[str]) -> str:
    """What an error about an unknown `key` ends with: the most similar one, else all."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(known)}"
