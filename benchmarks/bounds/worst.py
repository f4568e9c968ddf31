"""Bodies that might be costly, made of a few genes, and the search for the worst of them. Pure, and seeded.

A body repeats one or two units at some place of a request until it is as large as wanted, inside some levels of
lists, and may end with a fault. worst.yaml has what was once thought of; `mutated` finds others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import yaml

_DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_HEAD: str = _DATA["head"]
UNITS = [re.sub(r"<<(.+?)\*(\d+)>>", lambda found: found[1] * int(found[2]), unit) for unit in _DATA["units"]]
AROUND: dict[str, list[str]] = {
    place: [text.replace("<<head>>", _HEAD) for text in around] for place, around in _DATA["places"].items()
}
FAULTS: list[str] = _DATA["faults"]
_MODEL, _CLAUDE = '"m"', '"claude"'


class Genes(msgspec.Struct, frozen=True):
    """`units` take turns, the second every `every` times; `depth` lists are around them."""

    units: tuple[str, str]
    every: int
    place: str
    depth: int
    fault: str

    def __str__(self) -> str:
        shown = " ".join(
            unit if len(unit) <= 24 else f"{unit[:20]}…({len(unit)})" for unit in dict.fromkeys(self.units)
        )
        return (
            f"`{shown}` in {self.place}"
            + f", depth {self.depth}" * (self.depth > 0)
            + f", then {self.fault!r}" * bool(self.fault)
        )


def body(genes: Genes, size: int) -> bytes:
    """About `size` bytes, never more."""
    opening, closing = AROUND[genes.place]
    if genes.place in {"list", "parts", "tools"}:
        opening, closing = opening + "[" * genes.depth, "]" * genes.depth + closing
    inside = genes.place in {"content", "key", "model", "role", "arguments", "space"}
    between = "" if inside else ","
    one, other = (_fitting(unit, inside=inside) for unit in genes.units)
    turn = [one] * genes.every + [other]
    room = size - len((opening + closing + genes.fault).encode())
    per_turn = sum(len((unit + between).encode()) + 4 * unit.count("%d") for unit in turn)
    turns = max(0, room // per_turn)
    text = between.join(turn * turns)
    if "%d" in text:
        text = _numbered(text)
    return (opening + text + genes.fault + closing).encode()


def _fitting(unit: str, *, inside: bool) -> str:
    return unit.replace('"', '\\"') if inside and '"' in unit.replace('\\"', "") else unit


def _numbered(text: str) -> str:
    parts = text.split("%d")
    return "".join(f"{part}{number}" for number, part in enumerate(parts[:-1])) + parts[-1]


def first(place: str, unit: str) -> Genes:
    return Genes((unit, unit), 1, place, 0, "")


def thought_of() -> list[Genes]:
    """Each unit where it makes sense, and the faults after some."""
    whole = [unit for unit in UNITS if _is_value(unit)]
    members = [unit for unit in UNITS if '":' in unit and not unit.startswith("{")]
    inner = [unit for unit in UNITS if unit not in whole and unit not in members]
    found = [first("list", unit) for unit in whole]
    found += [first("messages", unit) for unit in whole if unit.startswith("{")]
    found += [
        first(place, unit)
        for place in ("parts", "tools")
        for unit in ("{}", '{"type":"x"}', '{"type":"text","text":"x"}', '{"a":{"type":"string"}}')
    ]
    found += [first(place, unit) for place in ("object", "schema") for unit in members]
    found += [first("content", unit) for unit in inner]
    found += [first(place, unit) for place in ("key", "model", "role") for unit in ("a", "\\n", "😀")]
    found += [Genes((unit, unit), 1, "content", 0, "😀") for unit in ("a", "\\n")]
    found += [first("space", " ")]
    found += [first("arguments", unit) for unit in ("[],", "1,", "1e308,", "{},")]
    found += [
        Genes((unit, unit), 1, "list", 0, fault)
        for fault in FAULTS[4:]
        for unit in ("1", '"a"', '"' + "a" * 300 + '"')
    ]
    return found


def schemas(size: int) -> Iterator[tuple[str, bytes]]:
    """Tools for a route to Claude, which translates their schemas; at most `size` bytes, the rest of it one text."""
    slow = "(?i)" + "[a-\\uffff]" * 50
    for name, keyword, unit, branch in (
        ("a keyword, and references to it", "%s", '"n%d":1', '{"$ref":"#/$defs/a"}'),
        ("names, and references to them", '"required":[%s]', '"n%d"', '{"$ref":"#/$defs/a"}'),
        ("slow patterns", '"properties":{%s}', f'"n%d":{{"pattern":"{slow}%d"}}', "{}"),
        (
            "patterns",
            '"properties":{%s}',
            '"n%d":{"pattern":"^(?:[a-f%d]{1,9}|x)+$","description":"d"}',
            "{}",
        ),
        ("types of another dialect", '"properties":{%s}', '"n%d":{"type":"STRING"}', "{}"),
    ):
        inner = keyword % _repeated(unit, size // 4)
        defined = f'"a":{{"type":"object",{inner}}}'
        composed = f'"anyOf":[{_repeated(branch, size // 4)}]'
        for strict in ("false", "true"):
            start = f'{_HEAD.replace(_MODEL, _CLAUDE)},"tools":[{{"type":"function","function":{{"name":"f"'
            start += f',"strict":{strict},"parameters":{{"properties":{{{defined}}},"$defs":{{{defined}}},{composed}'
            start += ',"description":"'
            yield (
                f"tools: {name}, strict: {strict}",
                f'{start}{"d" * (size - len(start) - 8)}"}}}}}}]}}'.encode(),
            )


def _repeated(unit: str, size: int) -> str:
    """At most so many that a body with them is not refused for its values alone."""
    return _numbered(",".join([unit] * min(size // (2 * len(unit) + 40), 15_000)))


def _is_value(unit: str) -> bool:
    try:
        msgspec.json.decode(unit)
    except msgspec.MsgspecError:
        return False
    return True


def mutated(genes: Genes, rng: random.Random) -> Genes:
    one, other = genes.units
    match rng.randrange(7):
        case 0:
            one = rng.choice(UNITS)
        case 1:
            other = rng.choice(UNITS)
        case 2:
            at = rng.randrange(len(one) + 1)
            one = one[:at] + rng.choice(_DATA["tokens"]) + one[at:]
        case 3:
            one, other = other, f"{one},{other}" if rng.random() < 0.5 else one
        case 4:
            return msgspec.structs.replace(genes, place=rng.choice(list(AROUND)))
        case 5:
            return msgspec.structs.replace(
                genes, depth=rng.choice((0, 1, 8, 40)), every=rng.choice((1, 3, 30, 1000))
            )
        case _:
            return msgspec.structs.replace(genes, fault=rng.choice(FAULTS))
    return msgspec.structs.replace(genes, units=(one or "1", other or "1"))
