"""Same meaning, same key, in every process; another meaning or another owner, another key."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.chat.question import CANNOT_SHAPE_THE_ANSWER, answer_key, answer_key_in_steps, scope_of
from dub5.json_steps import at_once

TENANT = ("tenant", "acme")
FIELDS = {"messages": [{"role": "user", "content": "hi"}], "temperature": 1}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
bodies = st.dictionaries(st.text(min_size=1, max_size=10), json_values, max_size=6)


def key(fields: dict[str, Any], **changes: Any) -> str:
    parts: dict[str, Any] = {"scope": TENANT, "personality_revision": "p", "model_revision": "m", "tags": ()}
    return answer_key(fields, **{**parts, **changes})


def respelled(value: Any) -> Any:
    """The same meaning, written another way: keys turned round, whole numbers as floats and back."""
    if isinstance(value, dict):
        return {name: respelled(item) for name, item in reversed(value.items())}
    if isinstance(value, list):
        return [respelled(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@given(bodies)
def test_another_spelling_of_the_same_request_has_the_same_key(fields: dict[str, Any]) -> None:
    assert key(respelled(fields)) == key(fields)
    escaped = json.loads(json.dumps(fields, ensure_ascii=True))
    assert key(escaped) == key(fields)


@given(bodies, st.sampled_from(sorted(CANNOT_SHAPE_THE_ANSWER)), json_values)
def test_fields_that_cannot_shape_the_answer_do_not_matter(
    fields: dict[str, Any], name: str, value: Any
) -> None:
    without = {field: item for field, item in fields.items() if field != name}
    assert key({**without, name: value}) == key(without)


@given(bodies, st.text(min_size=1, max_size=10), json_values)
def test_any_other_field_matters(fields: dict[str, Any], name: str, value: Any) -> None:
    without = {field: item for field, item in fields.items() if field != name}
    matters = name not in CANNOT_SHAPE_THE_ANSWER and value is not None
    assert (key({**without, name: value}) != key(without)) is matters


identity = st.text(max_size=12)
scopes = st.builds(
    lambda share, tenant, key_id, user: scope_of(share, tenant=tenant, key_id=key_id, user=user),
    st.sampled_from(["tenant", "user", "public"]),
    identity,
    identity,
    st.none() | identity,
)


@given(scopes, scopes)
def test_two_owners_never_share_a_key(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (key(FIELDS, scope=one) == key(FIELDS, scope=other)) is (one == other)


def test_a_user_named_like_another_tenant_is_somebody_else() -> None:
    mine = scope_of("user", tenant="a", key_id="k", user="b")
    assert mine != scope_of("user", tenant="a", key_id="kb", user=None)
    assert mine != scope_of("user", tenant="ak", key_id="b", user=None)
    assert scope_of("tenant", tenant="a", key_id="k1", user="u") == scope_of(
        "tenant", tenant="a", key_id="k2", user=None
    )


@pytest.mark.parametrize(
    "change",
    [
        {"personality_revision": "q"},
        {"model_revision": "n"},
        {"tags": ("t",)},
        {"scope": ("tenant", "other")},
    ],
)
def test_revisions_tags_and_scope_are_part_of_the_key(change: dict[str, Any]) -> None:
    assert key(FIELDS, **change) != key(FIELDS)


def test_the_order_of_tags_and_repeats_do_not_matter() -> None:
    assert key(FIELDS, tags=("a", "b")) == key(FIELDS, tags=("b", "a", "b"))


def test_minus_zero_is_zero_but_true_is_not_one() -> None:
    assert key({"x": -0.0}) == key({"x": 0})
    assert key({"x": True}) != key({"x": 1})


def test_another_process_computes_the_same_key() -> None:
    program = (
        "import sys, json; from dub5.chat.question import answer_key; parts = json.load(sys.stdin); "
        "print(answer_key(parts, scope=('tenant', 'acme'), personality_revision='p', model_revision='m'))"
    )
    fields = {"zeta": 1, "alpha": [{"b": 2.0, "a": "é"}], "messages": [{"role": "user", "content": "hi"}]}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(fields),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == key(fields)


@given(bodies)
def test_a_large_request_has_the_same_key_as_in_one_step(fields: dict[str, Any]) -> None:
    fields = {**fields, "messages": [{"content": "é" * 20_000, "role": "user", "x": [1.0, None]}] * 3}
    given: dict[str, Any] = {
        "scope": TENANT,
        "personality_revision": "p",
        "model_revision": "m",
        "tags": ("b", "a"),
    }
    assert at_once(answer_key_in_steps(fields, **given)) == answer_key(fields, **given)


@pytest.mark.parametrize(
    ("one", "other"), [(1e308, int(1e308)), (1e19, 10**19), (-1e22, -(10**22)), (2.0**64, 2**64)]
)
def test_numbers_past_64_bits_are_equal_where_they_mean_the_same(one: float, other: int) -> None:
    assert key({"x": one}) == key({"x": other})
    assert key({"x": other + 1}) != key({"x": other})


def test_the_key_of_an_answer_is_that_of_the_releases_before() -> None:
    fields = {**FIELDS, "n": 1.0, "tools": [{"b": 2.5, "a": [None, 3.0, {"x": "é"}]}], "user": "u"}
    assert key(fields) == "5f985e2c48fbd14012cf953b6eaf9aafa2b29921837ad4a9"
