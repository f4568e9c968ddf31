"""Arguments in parts are whole where a decoder says so of all of them, and no part is looked at twice for it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.api import arguments
from dub5.api.arguments import Account
from dub5.providers.chunks import is_object

odd = st.text(st.sampled_from('{}[]"\\ \n\u00a0a1:,'), max_size=16)
values = st.recursive(odd | st.none(), lambda inner: st.dictionaries(odd, inner, max_size=2), max_leaves=5)
said = st.builds(
    lambda value, after: json.dumps(value) + after, st.dictionaries(odd, values, max_size=2), odd
)


@given(said | odd, st.data())
def test_they_are_whole_where_a_decoder_says_so(text: str, data: st.DataObject) -> None:
    parts: list[str] = []
    account = Account(parts)
    while text:
        size = data.draw(st.integers(1, len(text)))
        parts.append(text[:size])
        text = text[size:]
        if data.draw(st.booleans()):
            assert account.is_whole() is is_object(parts)
    assert account.is_whole() is is_object(parts)


@pytest.mark.parametrize("part", ["[}", '{"a": "}"}', '"}', "{}"])
def test_they_are_joined_once(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    joined = 0

    def joining(parts: list[str]) -> bool:
        nonlocal joined
        joined += 1
        return is_object(parts)

    monkeypatch.setattr(arguments, "is_object", joining)
    parts: list[str] = []
    account = Account(parts)
    for _ in range(9):
        parts.append(part)
        account.is_whole()
    assert joined <= 1
