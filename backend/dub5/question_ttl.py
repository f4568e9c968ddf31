"""The TTL of one question: how long its answer is served before it is fetched again.

A question that is asked `l` times a second, whose answer changes `r` times a second, and that is fetched again `T`
seconds after the last time costs `l / (1 + l T)` calls a second, and `l^2 r T^2 / 2 / (1 + l T)` hits are stale. With
`c` stale hits accepted for each call saved, one number for the class, the least of `c * calls + stale hits` is at

    T = (sqrt(1 + 2 l c / r) - 1) / l,

about `sqrt(2 c / (l r))` where it is popular and `c / r` where it is rare: what is asked more often is fetched more
often, as one call makes many hits fresh. Azar et al. ("Tractable near-optimal policies for crawling", PNAS 2018) and
Kolobov et al. ("Staying up to date with online content changes", NeurIPS 2019) give a crawler's pages rates by the same
means.

Neither rate is known. Both have gamma distributions, of which the class's prior is published and the rest is the
question's own: `QuestionRecord` and `QuestionNoise` are what it adds to the prior.

1. Requests: the last `REMEMBERED` and those of this life so far, so that a question that becomes popular has a shorter
   TTL at once. How often questions are asked has a heavy tail: one that was asked a few times is likely a popular one,
   of which the class's usual question tells nothing. So of the prior's seconds there counts the square of the part that
   its shape is of all that is known; else the last hundred requests, which a popular question has in seconds, would be
   nothing beside the minutes after which the usual one is asked again.
2. A comparison after `x` seconds found the same: the likelihood `exp(-r x)` adds `x` seconds to the distribution of
   `r`, exactly. It found a change: time's doing, or chance's, with the question's own chance `e` that two fresh answers
   differ, which has a beta distribution. The likelihood is `1 - (1 - e) exp(-r x)`, the posterior a difference of two
   gamma distributions, and the gamma distribution with its mean and variance is put in its place (assumed density
   filtering: Minka, "A family of algorithms for approximate Bayesian inference", 2001). An answer that is always worded
   anew so tells nothing of time, and its `r` stays the class's. Where a few of a class are always worded anew, `e` is
   near 0 or near 1, and its mean is neither: of a question that changes fast, whose first comparison found a change,
   all later ones would pass for chance too. So both are kept: `e` of Beta(a, b + 1), seldom reworded, and of
   Beta(a + 1, b), often, which weighed by b and a are the prior, Beta(a, b), exactly. Each has an `r` of its own, each
   comparison says by its likelihoods which of the two holds, and for a TTL the gamma distribution with the mean and the
   variance of both together is taken.
3. The expected stale share of the question's hits, about `r T / 2`, is kept below `stale` with the upper end of `r`,
   its 98.2 % quantile by Wilson and Hilferty ("The distribution of chi-square", PNAS 1931).
4. An event that changed a share `s` of all answers when one was `u` seconds old makes its hits stale by `s` from then
   on. The least of the cost is where it would be without, with `c - s (1 + l u)` for `c`; where `s` is above `stale`,
   the answer is good no longer, whatever `c`.

Plain functions of numbers come first: the simulator compiles the same source.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from msgspec.structs import astuple

from dub5.contract import QuestionNoise, QuestionPolicy, QuestionRecord

HALF_LIFE = 4 * 86400.0
"""Seconds after which what was seen of changes counts half."""
REMEMBERED = 100.0
"""Requests by which their rate is known; older ones fade."""
REMEMBERED_FOR = 60.0
"""Seconds for which a question is remembered at least."""
COMES_BACK = 10.0
"""Mean times between two requests within which the next one comes; it comes later once in e to the power of it."""
IMPOSSIBLE = 1e-12
"""The chance of what is as good as impossible."""
MOST_ODDS = 30.0
"""A natural logarithm, a little more than that of one such chance: nothing is settled for good."""
QUANTILE = 2.1
"""Standard deviations of a normal distribution. With 2.0 one question in 75 had luck enough to break the promise."""

By = Literal["requests", "changes", "per-question", "prior", "event", "bounds"]
BY: tuple[By, ...] = ("requests", "changes", "per-question", "prior", "event", "bounds")
"""By what the TTL is what it is: the question's requests (it is popular), its changes (it is rare), the promise for a
single question, the changes of its class (nothing is known of its own), an event since the answer was fetched, or the
policy's bounds."""


class QuestionTTL(NamedTuple):
    seconds: float
    by: By


def upper_rate(shape: float, seconds: float) -> float:
    """The 98.2 % quantile of a gamma distribution."""
    root = 1 - 1 / (9 * shape) + QUANTILE / (3 * math.sqrt(shape))
    return max(shape * root * root * root, shape) / seconds


def best_ttl(requests: float, changes: float, most: float, cost: float) -> tuple[float, int]:
    """Seconds, at `most` so many, and where in BY the reason stands. Rates are per second; `cost` is in stale hits for
    a call saved."""
    ahead = requests * cost / changes
    # (sqrt(1 + 2 y) - 1) / y = 2 / (sqrt(1 + 2 y) + 1), which is exact where y is small.
    ttl = 2 * cost / changes / (math.sqrt(1 + 2 * ahead) + 1)
    if ttl > most:
        return most, 2
    return ttl, 0 if requests * ttl > 1 else 1


def request_rate(
    shape: float, seconds: float, requests: float, watched: float, hits: float, age: float
) -> float:
    """Step 1: per second. `shape` and `seconds` are the prior's."""
    kept = REMEMBERED / (REMEMBERED + hits)
    asked = shape + kept * requests + hits
    part = shape / asked
    return asked / (seconds * part * part + kept * watched + age)


def cost_left(cost: float, share: float, requests: float, since: float) -> float:
    """Step 4: what an event leaves of `cost` that changed this share of all answers when one was `since` seconds
    old."""
    return max(cost - share * (1 + requests * since), 0.0)


def compared(
    shape: float, seconds: float, noise: float, age: float, event: float, changed: bool
) -> tuple[float, float, float, float]:
    """Step 2: what a comparison with an answer of `age` seconds adds to shape and seconds of the changes' distribution,
    and how much of a comparison that tells of noise differed; and how likely it was.

    `noise` is the mean of the question's own; `event` the chance that an event in between changed the answer.
    """
    later = seconds + age
    unchanged = (seconds / later) ** shape  # by time
    same = (1 - noise) * (1 - event)
    gone = same * unchanged
    if not changed:
        return 0.0, age, 0.0, max(gone, IMPOSSIBLE)
    chance = 1 - gone
    if chance < IMPOSSIBLE:
        return 0.0, 0.0, 0.0, IMPOSSIBLE
    mean = (shape / seconds - gone * shape / later) / chance
    square = shape * (shape + 1) * (1 / (seconds * seconds) - gone / (later * later)) / chance
    variance = max(square - mean * mean, 1e-9 * mean * mean)
    # It changed by time or an event: then it tells nothing of noise.
    otherwise = 1 - (1 - event) * unchanged
    return mean * mean / variance - shape, mean / variance - seconds, (1 - otherwise) * noise / chance, chance


def beside_prior(shape: float, seconds: float, changes: float, exposure: float) -> tuple[float, float]:
    """`changes` and `exposure` beside a prior, neither below 0, with the mean rate of the two together."""
    if exposure < 0:
        changes = (shape + changes) * seconds / (seconds + exposure) - shape
        exposure = 0.0
    if changes < 0:
        exposure = max(shape * (seconds + exposure) / (shape + changes) - seconds, 0.0)
        changes = 0.0
    return changes, exposure


def explained(
    policy: QuestionPolicy,
    often: float,
    same: float,
    known: tuple[float, float, float],
    age: float,
    event: float,
    outcome: int,
    ends: bool,
) -> tuple[tuple[float, float, float], float]:
    """Step 2: what is known with a comparison more, under one explanation, and how likely it made that comparison.

    `often` is 1 where answers are often reworded, else 0; `known` are changes, exposure, and how many comparisons
    differed of those that tell of noise; `same` of them did not.
    """
    changes, exposure, reworded = known
    shape, seconds = policy.change[0], policy.change[1]
    more, longer, differed, likely = compared(
        shape + changes,
        seconds + exposure,
        (policy.noise[0] + often + reworded) / (policy.noise[0] + policy.noise[1] + 1 + same + reworded),
        age,
        event,
        outcome == 1,
    )
    if ends:
        changes, exposure = beside_prior(shape, seconds, changes + more, exposure + longer)
    return (changes, exposure, reworded + differed), likely


def together(
    policy: QuestionPolicy,
    seldom: tuple[float, float, float],
    often: tuple[float, float, float],
    odds: float,
) -> tuple[float, float]:
    """Step 2: changes and exposure beside the prior, with the mean and the variance of both explanations together."""
    if seldom[0] == often[0] and seldom[1] == often[1]:
        return seldom[0], seldom[1]  # exactly: where nothing is known yet, nothing is
    shape, seconds = policy.change[0], policy.change[1]
    part = 1 / (1 + policy.noise[1] / policy.noise[0] * math.exp(-odds))
    known, known_if_often = seconds + seldom[1], seconds + often[1]
    rate, rate_if_often = (shape + seldom[0]) / known, (shape + often[0]) / known_if_often
    mean = (1 - part) * rate + part * rate_if_often
    variance = (1 - part) * (rate / known + (rate - mean) ** 2)
    variance += part * (rate_if_often / known_if_often + (rate_if_often - mean) ** 2)
    return beside_prior(shape, seconds, mean * mean / variance - shape, mean / variance - seconds)


def learn(
    policy: QuestionPolicy,
    record: tuple[float, float, float, float, float, float, float],
    noise: tuple[float, float, float, float, float, float],
    fetched: float,
    again: float,
    outcome: int,
    hits: float,
    re_asked: bool,
) -> tuple[
    tuple[float, float, float, float, float, float, float], tuple[float, float, float, float, float, float]
]:
    """`updated`, with the fields in their order; `outcome` 1 is changed, 0 the same, -1 not compared."""
    changes, exposure, young, reworded, requests, watched, at = record
    age = max(again - fetched, 0.0)
    kept = 0.5 ** (max(again - at, 0.0) / HALF_LIFE)
    changes, exposure, young, reworded = kept * changes, kept * exposure, kept * young, kept * reworded
    seldom = (kept * noise[0], kept * noise[1], reworded)
    often = (kept * noise[2], kept * noise[3], kept * noise[4])
    odds = kept * noise[5]
    ends = outcome == 1 or not re_asked
    if outcome >= 0 and not policy.storm:
        same = young - reworded
        event = policy.changed_share if fetched < policy.changed_at <= again else 0.0
        seldom, likely = explained(policy, 0.0, same, seldom, age, event, outcome, ends)
        often, likely_if_often = explained(policy, 1.0, same, often, age, event, outcome, ends)
        odds = min(max(odds + math.log(likely_if_often / likely), -MOST_ODDS), MOST_ODDS)
        changes, exposure = together(policy, seldom, often, odds)
        reworded = seldom[2]
        young = same + reworded + (1 - outcome)
    if ends:
        kept = REMEMBERED / (REMEMBERED + hits + 1)
        requests, watched = kept * requests + hits + 1, kept * watched + age
    return (
        (changes, exposure, young, reworded, requests, watched, max(again, at)),
        (seldom[0], seldom[1], often[0], often[1], often[2], odds),
    )


def judge(
    policy: QuestionPolicy,
    changes: float,
    exposure: float,
    requests: float,
    watched: float,
    hits: float,
    age: float,
    now: float,
) -> tuple[float, int]:
    """`ttl_of`, in numbers: seconds, and where in BY the reason stands."""
    shape, seconds = policy.change[0] + changes, policy.change[1] + exposure
    rate = request_rate(policy.requests[0], policy.requests[1], requests, watched, hits, age)
    cost, since = policy.cost, policy.changed_at - (now - age)
    if since > 0:
        cost = (
            cost_left(cost, policy.changed_share, rate, since)
            if policy.changed_share <= policy.stale
            else 0.0
        )
    most = 2 * policy.stale / (upper_rate(shape, seconds) * policy.hazard)
    ttl, by = best_ttl(rate, shape / seconds * policy.hazard, most, cost)
    if since > 0 and policy.changed_share > 0 and by < 2:
        by = 4
    elif changes == 0 and exposure == 0:
        by = 3
    if ttl < policy.shortest:
        return policy.shortest, 5
    if ttl > policy.longest:
        return policy.longest, 5
    return ttl, by


_NO_NOISE = QuestionNoise(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _unknown(at: float) -> QuestionRecord:
    """Of a question that was never compared."""
    return QuestionRecord(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, at)


def updated(
    record: QuestionRecord | None,
    noise: QuestionNoise | None = None,
    *,
    fetched: float,
    again: float,
    changed: bool | None,
    hits: float,
    re_asked: bool,
    policy: QuestionPolicy,
) -> tuple[QuestionRecord, QuestionNoise]:
    """What is known of a question whose answer of `fetched` was fetched `again`; times are in seconds since the epoch.

    `changed` None: the two could not be compared. `hits` are those of the older answer, by the whole installation. One
    that was `re_asked`, and is the same, lives on: its hits and its age are counted when it ends. With numbers that no
    question comes to, as damage has, it begins anew.
    """
    if record is None:
        record = _unknown(again)
    if noise is None:  # as a release wrote it that knew of one explanation
        known = record.changes, record.exposure
        noise = QuestionNoise(*known, *known, record.reworded, 0.0)
    outcome = -1 if changed is None else int(changed)
    try:
        told, of_noise = learn(
            policy, astuple(record), astuple(noise), fetched, again, outcome, hits, re_asked
        )
    except ArithmeticError:
        told, of_noise = learn(
            policy, astuple(_unknown(again)), astuple(_NO_NOISE), fetched, again, outcome, hits, re_asked
        )
    return QuestionRecord(*told), QuestionNoise(*of_noise)


def ttl_of(
    record: QuestionRecord | None, policy: QuestionPolicy, *, hits: float, age: float, now: float
) -> QuestionTTL:
    """For how long an answer is good that is `age` seconds old `now`, in seconds since the epoch, and had so many
    `hits` until then, by the whole installation."""
    if record is None:
        ttl, by = judge(policy, 0.0, 0.0, 0.0, 0.0, hits, age, now)
    else:
        known = record.changes, record.exposure, record.requests, record.watched
        ttl, by = judge(policy, *known, hits, age, now)
    return QuestionTTL(ttl, BY[by])


def longest_life(policy: QuestionPolicy, changes: float, exposure: float) -> float:
    """`longest_ttl`, in numbers."""
    shape, seconds = policy.change[0] + changes, policy.change[1] + exposure
    ttl = min(policy.cost * seconds / shape, 2 * policy.stale / upper_rate(shape, seconds)) / policy.hazard
    return min(max(ttl, policy.shortest), policy.longest)


def worth_remembering(
    policy: QuestionPolicy, changes: float, exposure: float, requests: float, watched: float
) -> float:
    """`remembered`, in numbers."""
    back = 1 / request_rate(*policy.requests, requests, watched, 0.0, 0.0)
    longest = max(policy.longest, REMEMBERED_FOR)
    life = longest_life(policy, changes, exposure)
    return min(max(4 * life, COMES_BACK * back, REMEMBERED_FOR), 4 * longest)


def longest_ttl(record: QuestionRecord | None, policy: QuestionPolicy) -> float:
    """Seconds that an answer may be good for, at most: as if nobody asked for it again."""
    if record is None:
        return longest_life(policy, 0.0, 0.0)
    return longest_life(policy, record.changes, record.exposure)


def remembered(record: QuestionRecord | None, policy: QuestionPolicy) -> float:
    """Seconds for which a fingerprint and its record are worth keeping after the answer was fetched: until the question
    has most likely come back, so that one whose TTL is shorter than that is learnt too."""
    if record is None:
        return worth_remembering(policy, 0.0, 0.0, 0.0, 0.0)
    return worth_remembering(policy, record.changes, record.exposure, record.requests, record.watched)
