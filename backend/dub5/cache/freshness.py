"""May this stored answer be used for this request? RFC 9111 and RFC 5861, as pure decisions.

The age of an entry is judged when it is read, against the TTL that its class has now: a shortened TTL takes
effect at once, and a hit never lengthens an entry's life. Where the operator has published what that takes, each answer
has a TTL of its own: by what is known of its question, of the hits that this answer has had, and by its age.
"""

from __future__ import annotations

import enum
import math
import re

import msgspec

from dub5.contract import QuestionPolicy, QuestionRecord
from dub5.errors import InvalidRequest
from dub5.question_ttl import By, longest_ttl, ttl_of

# Possessive: where a part does not match there is nothing to try again, however long it is.
_DIRECTIVE = re.compile(
    r'\s*+([!#$%&\'*+.^_`|~0-9A-Za-z-]++)(?:\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^\s,"]*+))?+\s*+(?:,|$)'
)
_LONGEST = 1000
"""Characters of a Cache-Control that we are ready to read."""
_MOST_SECONDS = 2.0**31
"""RFC 9111 section 1.2.2: what a longer time counts as."""
_MARGIN = 2.0
"""By how much the policy may lengthen an answer's TTL after it was stored: nothing is kept for longer than that."""


class Directives(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Request directives of RFC 9111 section 5.2.1 and RFC 5861; durations in seconds.

    `max_stale` without a value accepts any staleness: infinity.
    """

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age: float | None = None
    min_fresh: float = 0.0
    max_stale: float | None = None
    stale_if_error: float | None = None

    @classmethod
    def parse(cls, header: str) -> Directives:
        """Unknown directives are ignored, as the RFC asks; InvalidRequest where a known one is malformed."""
        if not header:
            return NO_DIRECTIVES
        if len(header) > _LONGEST:
            raise InvalidRequest(
                f"Cache-Control is longer than {_LONGEST} characters.", param="Cache-Control"
            )
        found: dict[str, str] = {}
        position = 0
        while position < len(header):
            match = _DIRECTIVE.match(header, position)
            if match is None:
                raise InvalidRequest("Cache-Control is malformed.", param="Cache-Control")
            found[match[1].lower()] = (match[2] or "").strip('"')
            position = match.end()
        return cls(
            no_store="no-store" in found,
            no_cache="no-cache" in found,
            only_if_cached="only-if-cached" in found,
            max_age=_seconds(found, "max-age"),
            min_fresh=_seconds(found, "min-fresh") or 0.0,
            max_stale=math.inf if found.get("max-stale") == "" else _seconds(found, "max-stale"),
            stale_if_error=_seconds(found, "stale-if-error"),
        )


NO_DIRECTIVES = Directives()


def _seconds(found: dict[str, str], name: str) -> float | None:
    if name not in found:
        return None
    if not re.fullmatch("[0-9]+", found[name]):
        raise InvalidRequest(
            f"Cache-Control: `{name}` needs a whole number of seconds.", param="Cache-Control"
        )
    return min(float(found[name]), _MOST_SECONDS)


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How long answers of a class live, in seconds: fresh; then stale, but served while a new one is fetched,
    or where every provider fails. With `question` those of each answer are `of_answer`, and these are for what is not
    an answer to a question, and for all where they are 0. `canary` is the share of calls to providers that may be spent
    on seeing whether they are right."""

    ttl: float
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    question: QuestionPolicy | None = None
    canary: float = 0.0

    def of_answer(
        self, record: QuestionRecord | None, *, hits: float, age: float, now: float
    ) -> tuple[Lifetimes, By | None]:
        """How long one answer lives, and why: of `age` seconds, with `hits` in the whole installation so far."""
        question = self.question
        if question is None or self.ttl <= 0:
            return self, None
        ttl, by = ttl_of(record, question, hits=hits, age=age, now=now)
        return self._divided(ttl), by

    def kept_for(self, record: QuestionRecord | None = None) -> float:
        """For how many seconds after its birth an answer may be of use at all."""
        lives, question = self, self.question
        if question is not None and self.ttl > 0:
            lives = self._divided(min(_MARGIN * longest_ttl(record, question), question.longest))
        return lives.ttl + max(lives.stale_while_revalidate, lives.stale_if_error)

    def _divided(self, life: float) -> Lifetimes:
        """`life` seconds in two parts, in the proportion of the class's: fresh, for `shortest` at least, and served
        stale while a new one is fetched. So no hit is older than what its share of stale hits is reckoned with."""
        fresh = life
        if self.stale_while_revalidate and self.question is not None:
            fresh *= self.ttl / (self.ttl + self.stale_while_revalidate)
            fresh = max(fresh, min(self.question.shortest, life))
        return Lifetimes(ttl=fresh, stale_while_revalidate=life - fresh, stale_if_error=self.stale_if_error)


class FreshnessState(enum.Enum):
    """What a stored answer is good for.

    REVALIDATE: served stale while a new one is fetched. ACCEPTED: served stale, because the request accepts
    that (`max-stale`). REFUSED: not fresh enough for this request. IF_ERROR: only where every provider fails.
    """

    FRESH = enum.auto()
    REVALIDATE = enum.auto()
    ACCEPTED = enum.auto()
    REFUSED = enum.auto()
    IF_ERROR = enum.auto()
    GONE = enum.auto()


FRESH = FreshnessState.FRESH
"""To look up a state is a call, and most answers are fresh."""
USABLE = (FRESH, FreshnessState.REVALIDATE, FreshnessState.ACCEPTED)


class Freshness(msgspec.Struct, frozen=True, gc=False):
    """What was decided; the entry's `age` and remaining `ttl` in seconds, negative when stale."""

    state: FreshnessState
    age: float
    ttl: float

    @property
    def usable(self) -> bool:
        return self.state in USABLE


def judge(*, age: float, lifetimes: Lifetimes, asked: Directives) -> Freshness:
    """RFC 9111 section 4.2 and RFC 5861, with what the request asks for."""
    ttl = lifetimes.ttl - age
    return Freshness(_state(age, ttl, lifetimes, asked), age, ttl)


def _state(age: float, ttl: float, lifetimes: Lifetimes, asked: Directives) -> FreshnessState:
    if asked.no_cache or (asked.max_age is not None and age > asked.max_age):
        return FreshnessState.REFUSED
    if ttl > 0:
        return FreshnessState.FRESH if ttl > asked.min_fresh else FreshnessState.REFUSED
    staleness = -ttl
    if staleness <= lifetimes.stale_while_revalidate and not asked.min_fresh:
        return FreshnessState.REVALIDATE
    if asked.max_stale is not None and staleness <= asked.max_stale:
        return FreshnessState.ACCEPTED
    on_error = lifetimes.stale_if_error if asked.stale_if_error is None else asked.stale_if_error
    return FreshnessState.IF_ERROR if staleness <= on_error else FreshnessState.GONE


GREATEST_DRAW = 37.0
"""The negative logarithm of a draw is never greater: generators give 53 bits. So an answer that is fresh for more than
so many times as long as it took is not refreshed early, whatever is drawn."""


def refresh_early(*, ttl: float, recompute: float, lifetimes: Lifetimes, draw: float) -> bool:
    """Whether this hit should have the answer fetched anew before it expires. `draw` is uniform in (0, 1].

    Vattani, Chierichetti and Lowenstein, "Optimal probabilistic cache stampede prevention", VLDB 2015, with
    beta = 1: refresh when `-recompute * ln(draw)` reaches the time that is left. Only for answers without
    stale-while-revalidate, which does the same better, and where asking takes less than a tenth of the TTL:
    else most hits would refresh.
    """
    if lifetimes.stale_while_revalidate > 0 or recompute >= lifetimes.ttl / 10:
        return False
    return -recompute * math.log(draw) >= ttl
