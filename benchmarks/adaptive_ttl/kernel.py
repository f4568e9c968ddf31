"""A minute of the cache of one class, compiled where numba is there, by the very functions that replicas run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dub5 import question_ttl
from dub5.cache.samples import KEPT_AT_LEAST, KEPT_FOR_TTLS
from dub5.contract import QuestionPolicy

Floats = NDArray[np.float64]

if TYPE_CHECKING:

    def compiled(function: Any) -> Any: ...

else:
    try:
        from numba import njit

        compiled = njit(error_model="numpy")
    except ImportError:  # the same, a hundred times as slow

        def compiled(function):
            return function


def _compile(*names: str) -> list[Any]:
    """Functions of question_ttl, each compiled with those that it calls."""
    done: dict[str, Any] = {}
    for name in names:
        plain = getattr(question_ttl, name)
        inside = {**plain.__globals__, **done}
        done[name] = compiled(type(plain)(plain.__code__, inside, name))
    return [done[name] for name in names]


(*_, judge, learn, longest, remembered) = _compile(
    "upper_rate",
    "best_ttl",
    "request_rate",
    "cost_left",
    "compared",
    "beside_prior",
    "explained",
    "together",
    "judge",
    "learn",
    "longest_life",
    "worth_remembering",
)

RE_ASK_SHARE = 0.01
ONE, BY_KEY, QUESTION = range(3)


class Published(NamedTuple):
    """A QuestionPolicy for compiled code."""

    cost: float
    change: tuple[float, float]
    noise: tuple[float, float]
    requests: tuple[float, float]
    shortest: float
    longest: float
    stale: float
    hazard: float
    changed_at: float
    changed_share: float
    storm: bool

    @classmethod
    def of(cls, policy: QuestionPolicy) -> Published:
        return cls(
            float(policy.cost),
            policy.change,
            policy.noise,
            policy.requests,
            policy.shortest,
            policy.longest,
            policy.stale,
            float(policy.hazard),
            float(policy.changed_at),
            float(policy.changed_share),
            policy.storm,
        )


NO_POLICY = Published(0.0, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, False)


class State(NamedTuple):
    """By question, one array each. `known` is what its QuestionRecord holds, and `noise` its
    QuestionNoise; times are those of the simulation."""

    fetched: Floats
    version: NDArray[np.int64]
    hits: NDArray[np.int64]
    own: NDArray[np.bool_]
    kept_for: Floats
    known: Floats
    noise: Floats
    all_hits: NDArray[np.int64]
    expected_stale: Floats
    re_ask: Floats


def new_state(count: int) -> State:
    return State(
        fetched=np.full(count, -1e18),
        version=np.zeros(count, dtype=np.int64),
        hits=np.zeros(count, dtype=np.int64),
        own=np.zeros(count, dtype=bool),
        kept_for=np.zeros(count),
        known=np.zeros((count, 7)),
        noise=np.zeros((count, 6)),
        all_hits=np.zeros(count, dtype=np.int64),
        expected_stale=np.zeros(count),
        re_ask=np.zeros(1),
    )


class Answers(NamedTuple):
    """`changes[first[k]:first[k + 1]]` are when the answer of `k` changes. By question: `rates`, `own_wording`."""

    changes: Floats
    first: NDArray[np.int64]
    rates: Floats
    own_wording: Floats


@compiled
def usual_ttl(policy: Published, state: State, shares: Floats, now: float) -> float:
    """Seconds for which a new answer would be good: the geometric mean over look-ups."""
    total = 0.0
    for key in range(len(shares)):
        known = state.known[key]
        ttl, _ = judge(policy, known[0], known[1], known[4], known[5], 0, 0.0, now)
        total += shares[key] * math.log(ttl)
    return math.exp(total)


@compiled
def _version(answers: Answers, key: int, at: float) -> int:
    if key >= len(answers.rates):
        return 0
    start, end = answers.first[key], answers.first[key + 1]
    return int(np.searchsorted(answers.changes[start:end], at, side="right"))


@compiled
def run_minute(
    times: Floats,
    keys: NDArray[np.int64],
    chances: Floats,
    mode: int,
    ttls: Floats,
    policy: Published,
    samples: bool,
    start: float,
    answers: Answers,
    state: State,
    found: NDArray[np.bool_],
    verdicts: Floats,
) -> tuple[int, int, int, int, float]:
    """Say which look-ups were hits in `found`, and write comparisons to the rows of `verdicts`: key, births, whether it
    changed, hits, whether it was a re-ask. Gives the numbers of stale hits, calls, re-asks and comparisons, and seconds
    for which answers are kept."""
    stale, calls, re_asks, compared, kept_seconds = 0, 0, 0, 0, 0.0
    for place in range(len(times)):
        at, key = times[place], keys[place]
        age = at - state.fetched[key]
        ttl = ttls[0]
        if mode == BY_KEY:
            ttl = ttls[key] if key < len(ttls) else ttls[-1]
        elif mode == QUESTION:
            known = state.known[key]
            ttl, _ = judge(policy, known[0], known[1], known[4], known[5], state.hits[key], age, start + at)
        hit = age < ttl
        found[place] = hit
        worded = key < len(answers.rates) and chances[place] < answers.own_wording[key]
        asks_again = False
        if hit:
            state.hits[key] += 1
            state.all_hits[key] += 1
            last = answers.first[key] + state.version[key]
            stale += at >= answers.changes[last]
            state.expected_stale[key] -= math.expm1(-answers.rates[key] * age)
            asks_again = samples and state.re_ask[0] >= 1
            if not asks_again:
                continue
        version = _version(answers, key, at)
        changed = version != state.version[key] or worded or state.own[key]
        if asks_again:
            state.re_ask[0] = 0
            re_asks += 1
        else:
            calls += 1
            state.re_ask[0] += RE_ASK_SHARE
        remembers = samples and age < state.kept_for[key]
        if remembers:
            row = verdicts[compared]
            row[0], row[1], row[2] = key, start + state.fetched[key], start + at
            row[3], row[4], row[5] = changed, state.hits[key], asks_again
            compared += 1
        if mode == QUESTION:
            known, noise = state.known[key], state.noise[key]
            if remembers:
                record, of_noise = learn(
                    policy,
                    (known[0], known[1], known[2], known[3], known[4], known[5], known[6]),
                    (noise[0], noise[1], noise[2], noise[3], noise[4], noise[5]),
                    start + state.fetched[key],
                    start + at,
                    1 if changed else 0,
                    float(state.hits[key]),
                    asks_again,
                )
                for index in range(7):
                    known[index] = record[index]
                for index in range(6):
                    noise[index] = of_noise[index]
            else:
                known[:6], noise[:] = 0, 0
                known[6] = start + at
        if asks_again and not changed:
            continue
        state.fetched[key], state.version[key], state.own[key] = at, version, worded
        state.hits[key] = 0
        if mode == QUESTION:
            state.kept_for[key] = remembered(policy, known[0], known[1], known[4], known[5])
            kept_seconds += longest(policy, known[0], known[1])
        else:
            state.kept_for[key] = max(KEPT_FOR_TTLS * ttl, KEPT_AT_LEAST)
            kept_seconds += ttl
    return stale, calls, re_asks, compared, kept_seconds
