"""What counts as a change of an answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.cache.samples import _plain, fingerprint, same
from dub5.cache.store import Comparison

LONG = "The museum in the old town is open daily from 9 to 17 except on Mondays and costs 12 euros for adults"
REWORDED = "Well, the museum in the old town is open daily from 9 to 17 except on Mondays and costs 12 euros."
OTHER = "You can rent a boat at the lake on 9 to 17 days in May, 12 of them with a discount for members"
DEEP = "[" * 1500 + "1" + "]" * 1500
"""JSON that Python's stack has no room for."""


def completion(content: Any, **changes: Any) -> dict[str, Any]:
    call = {
        "id": changes.pop("call_id", "a"),
        "type": "function",
        "function": {"name": "f", "arguments": changes.pop("arguments", "{}")},
    }
    message = {"role": "assistant", "content": content, "tool_calls": [call]}
    return {"id": "1", "created": 1, "choices": [{"index": 0, "message": message}], **changes}


def alike(one: Any, other: Any, how: Comparison) -> bool | None:
    return same(fingerprint(completion(one), how), fingerprint(completion(other), how))


@pytest.mark.parametrize(
    ("how", "one", "other", "expected"),
    [
        ("exact", "Hello", "Hello", True),
        ("exact", "Hello", "hello", False),
        ("text", "  Hello,\n *World*!", "hello world", True),
        ("text", "ﬁne", "fine", True),
        ("text", "12 euros", "13 euros", False),
        ("text", "yes", "no", False),
        ("json", '{"a": 1, "b": [1, 2]}', '{ "b": [1, 2], "a": 1 }', True),
        ("json", '{"a": 1}', '{"a": 2}', False),
        ("json", "no JSON.", "No JSON", True),
        ("json", DEEP, f"\n{DEEP}", True),
        ("json", DEEP, DEEP.replace("1", "2"), False),
        ("sketch", LONG, REWORDED, True),
        ("sketch", LONG, LONG.replace("12", "14"), False),
        ("sketch", LONG, OTHER, False),
        ("sketch", "", "", True),
        ("text", None, "", True),
        ("text", [{"type": "text", "text": "a"}], [{"text": "a", "type": "text"}], True),
    ],
)
def test_same(how: Comparison, one: Any, other: Any, expected: bool) -> None:
    assert alike(one, other, how) is expected


@pytest.mark.parametrize("how", ["exact", "text", "json", "sketch"])
def test_ids_and_token_counts_do_not_make_an_answer_another(how: Comparison) -> None:
    one = fingerprint(completion("x"), how)
    assert (
        same(one, fingerprint(completion("x", id="2", created=9, usage={"n": 3}, call_id="b"), how)) is True
    )
    assert same(one, fingerprint(completion("x", arguments='{"a": 1}'), how)) is False


def test_fingerprints_that_were_made_differently_tell_nothing() -> None:
    assert same(fingerprint(completion("x"), "text"), fingerprint(completion("x"), "exact")) is None
    assert same("8c2b", fingerprint(completion("x"), "exact")) is None  # of an earlier release


@given(
    st.text(st.sampled_from("aB1 .,(*'\n\t\x1c\x00"), max_size=40) | st.text(st.characters(max_codepoint=127))
)
def test_text_in_ascii_is_read_word_by_word(text: str) -> None:
    words = [word.strip(".,;:!?\"'`()[]{}*_#") for word in text.casefold().split()]
    assert _plain(text) == " ".join(filter(None, words))


def test_long_rows_of_punctuation_are_read_in_little_time() -> None:
    """In quadratic time it would take minutes."""
    for row in ("." * 2**20, " ." * 2**19, "x" + "." * 2**20 + "x", " " * 2**20):
        assert len(_plain(row)) in {0, len(row)}


@given(st.text(max_size=200), st.sampled_from(["exact", "text", "json", "sketch"]))
def test_an_answer_is_the_same_as_itself(text: str, how: Comparison) -> None:
    assert alike(text, text, how) is True


def test_accents_in_long_rows_are_compared_in_little_time() -> None:
    """Sorted in quadratic time they would take minutes."""
    text = "e" + "\u0323\u0301" * 60_000
    assert same(_fingerprint(text), _fingerprint(text))
    assert not same(_fingerprint(text), _fingerprint(text + "x"))


def _fingerprint(text: str) -> str:
    return fingerprint({"choices": [{"message": {"content": text}}]}, "text")
