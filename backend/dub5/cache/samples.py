"""What the operator learns from: which answers are asked for again, and which have changed.

Look-ups and comparisons are taken and written only where somebody reads them: the operator says so by a key that
expires, `SAMPLES_READER`. A fingerprint of each answer is always kept, so that there is something to compare with.

Accesses are sampled by the hash of their key, with every access of a sampled key recorded, plus an exact
stratum of the heaviest keys, which plain sampling would miss or overstate. Each replica has a byte budget;
when it is passed the sampling threshold halves, when it is hardly used it doubles, and each record carries the
threshold it was taken under.

Whenever an answer is fetched again it is compared with a fingerprint of the one before it, kept for four TTLs or for as
long as it may tell anything: a measurement of staleness that costs nothing. The hits that the older answer served are
counted in memory and added to the fingerprint each `INTERVAL`, so they lack at most the other replicas' last ones.
Comparisons come out of the same budget, up to half of it; of more, a fair sample is kept. Where each answer has a TTL
of its own, what is known of its question is kept beside the fingerprint, and each comparison adds to it.

The stream is bounded by what a batch may hold and by how many there may be: `BATCH_BYTES` times `STREAM_BATCHES`, 5 MiB
however many replicas write, and by age. So that it reaches back for half an hour, replicas share how often a batch is
written: two of them 1,400 bytes a second each, ten 280. With more than seventeen no batch waits longer than a minute,
and it reaches back less far; with more than a hundred they wait again, so that it always reaches back five minutes: an
operator reads once a minute.

A provider seldom gives the same words twice unless it is told to. What counts as a change is the class's choice:

* `exact`: the messages to the letter. For `temperature: 0` and written answers.
* `text` (default): apart from case, punctuation at the ends of words, white space and Unicode forms.
* `json`: where the answer is JSON, its value: order of keys and layout do not matter. Else as `text`.
* `sketch`: mostly the same words in the same order, and the same numbers. Two answers worded anew are the same where
  their three-word shingles overlap by `SIMILAR` (Jaccard, estimated from the least `SKETCH` hashes: Broder, "On the
  resemblance and containment of documents", 1997). Numbers are compared exactly: prices, dates and counts are what
  goes stale, and one digit does not change a sketch.

Tool calls always count to the letter, apart from their ids. Embeddings would see a paraphrase that shares no words;
they would also cost a call of their own for each answer.

A fingerprint says how it was made. Two that were made differently cannot be compared.

Recording appends to a list, and a task flushes it. Of this a request waits for nothing but the fingerprint of its own
answer, which nothing has to be read for. Lost samples are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import random
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from dub5.cache.canaries import Canaries
from dub5.cache.freshness import Lifetimes
from dub5.cache.store import MOST_HITS, VECTOR_KEY, Comparison, Entry, Identity, read_noise, read_record
from dub5.contract import (
    FINGERPRINT_KEY,
    REGISTER_SCRIPT,
    REPLICAS,
    SAMPLES,
    SAMPLES_READER,
    Access,
    Canary,
    QuestionNoise,
    QuestionPolicy,
    QuestionRecord,
    SampleBatch,
    Undecodable,
    Verdict,
)
from dub5.question_ttl import remembered, updated
from dub5.redis.link import OnAnswers, RedisLink, RedisUnavailable, RedisUndecodable, Words
from dub5.telemetry.background import STOP_TIMEOUT, Background, BackgroundTask
from dub5.telemetry.metrics import Metrics

INTERVAL = 5.0
"""Seconds between two looks at who reads and how many write, and between two batches at least."""
REACH, LEAST_REACH = 1800.0, 300.0
"""Seconds that the stream reaches back: as a rule, and however many replicas write."""
LONGEST_WAIT = 60.0
"""Seconds for which a batch may wait for the sake of REACH."""
BATCH_BYTES = 10_000
"""A batch in MessagePack, at most; with what a stream adds to it just below what the allocator of Redis gives."""
STREAM_BATCHES = 512
"""Batches that the stream keeps, at most."""
STREAM_AGE = 3600.0
"""Seconds that batches are kept, at most."""
GONE_AFTER = 3 * INTERVAL
"""Seconds after which a replica that says nothing is not counted."""
BYTES_PER_RECORD = 52
"""Of an access or a comparison in MessagePack, at most, but for the class's name."""
BYTES_PER_CANARY = 56
"""Of a canary in MessagePack, at most, but for the class's name."""
BYTES_PER_CLASS = 12
"""Of a class's count or TTL, at most, but for its name."""
HEAVY_KEYS = 64
COUNTED_KEYS = 4096
"""Keys whose hits are counted at a time; the lightest are forgotten first."""
KEPT_FOR_TTLS = 4.0
KEPT_AT_LEAST = 60.0
"""Seconds: an answer that is not cached at all still shows how fast such answers change."""

_LONG = 64 * 2**10
"""Bytes of an answer from which on comparing it takes more than some milliseconds."""
_ENVELOPE = 180
"""Bytes of a batch that has nothing in it, at most."""
_HITS_AT_ONCE = 256
"""Keys in one pipeline: more would hold the event loop for tens of milliseconds."""

_BOUND: list[Words] = [
    ("XTRIM", SAMPLES, "MAXLEN", STREAM_BATCHES),
    ("PEXPIRE", SAMPLES, int(STREAM_AGE * 1000)),
]
"""A release before this one wrote more, and for ever."""

_KNOW = """
if redis.pcall('HGET', KEYS[1], 'born') == ARGV[1] then redis.pcall('HSET', KEYS[1], unpack(ARGV, 2)) end
"""
_REPLACE = """
local last = redis.pcall('HMGET', KEYS[1], 'born', 'digest', 'version', 'hits')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'born', ARGV[2], 'digest', ARGV[3], 'version', ARGV[4], 'hits', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return last
"""
_ADD_HITS = """
if redis.pcall('HGET', KEYS[1], 'born') == ARGV[1] then redis.pcall('HINCRBY', KEYS[1], 'hits', ARGV[2]) end
"""

SKETCH = 64
SIMILAR = 0.5
"""Two answers to one question, worded anew, share more than half of their shingles; two different ones hardly any."""

_WORDS = 3
_LONGEST_WORD = 256
"""Characters."""
_PUNCTUATION = ".,;:!?…\"'`´“”‘’()[]{}*_#"  # noqa: RUF001  # quotation marks of all kinds, and Markdown; no signs of numbers
_IN_ONE_CASE = bytes(32 if chr(code).isspace() else code for code in range(256)).lower()
"""Of ASCII: in lower case, and all white space is one."""
_AROUND = (" " + "".join(filter(str.isascii, _PUNCTUATION))).encode()
_BESIDE_SPACE = re.compile(rb" [%b]+" % re.escape(_AROUND))
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_FINGERPRINT = re.compile(r"sketch:[0-9a-f]{1,64}:([0-9a-f]{8}){1,256}|(?!sketch:)[a-z-]{1,20}:[^\n]{1,2000}")
_Known = TypeVar("_Known")
_canonical = msgspec.json.Encoder(order="deterministic").encode

_FIELDS = ("born", "digest", "version", "hits", "known", "noise")
Source = Literal["refetch", "re-ask", "canary"]
"""Why an answer was fetched that is compared: it was needed, or to compare it, the last one drawn from all hits."""


class _Last(msgspec.Struct, frozen=True):
    """A fingerprint as it stands in Redis, with what belongs to it. `born` in microseconds since the epoch."""

    born: int
    digest: str
    version: str
    hits: int

    @classmethod
    def read(cls, born: bytes, digest: bytes, version: bytes, hits: bytes) -> _Last:
        """Undecodable where it is none of ours."""
        try:
            last = cls(int(born), digest.decode(), version.decode(), int(hits))
        except ValueError:
            raise Undecodable("no fingerprint") from None
        if not (0 < last.born < 2**53 and 0 <= last.hits <= MOST_HITS and is_fingerprint(last.digest)):
            raise Undecodable("no fingerprint")
        return last


def short_key(key: str) -> int:
    """48 bits of a cache key, a vector's too: enough to tell keys apart, too little to find one by."""
    return int(key.removeprefix(VECTOR_KEY)[:12], 16)


class Samples(Protocol):
    """What is noted of the cache's work: by a Sampler, or by nobody. `replicas`: how many share the requests;
    `wanted`: whether hits are noted that have no TTL of their own."""

    wanted: bool
    replicas: int
    re_asks: float

    def accessed(
        self,
        key: str,
        class_name: str,
        entry: Entry | None,
        *,
        dollars: float,
        hit: bool,
        ttl: float | None = None,
        joined: bool = False,
    ) -> None: ...

    async def fetched(
        self,
        identity: Identity,
        class_name: str,
        entry: Entry,
        completion: dict[str, Any],
        how: Comparison,
        *,
        lifetimes: Lifetimes,
        compared_with: Entry | None,
        source: Source = "refetch",
    ) -> bool: ...

    def failed(self, class_name: str, source: Source) -> None: ...

    def spend_re_ask(self) -> None: ...

    def draw_canary(self, class_name: str, share: float, chance: float) -> float: ...

    def check_canary(self, class_name: str, chance: float, *, changed: bool) -> bool: ...

    def measured(self, canary: Canary) -> None: ...


class NoSampler:
    """Where there is no Redis, or no cache: nobody would read the samples."""

    wanted = False
    replicas = 1
    re_asks = 0.0

    def accessed(self, *_: object, **__: object) -> None:
        """Nothing."""

    async def fetched(self, *_: object, **__: object) -> bool:
        return True

    def failed(self, class_name: str, source: Source) -> None:
        """Nothing."""

    def spend_re_ask(self) -> None:
        """Nothing: none is ever due."""

    def draw_canary(self, *_: object, **__: object) -> float:
        return 0.0

    def check_canary(self, *_: object, **__: object) -> bool:
        return False

    def measured(self, *_: object, **__: object) -> None:
        """Nothing."""


class Sampler:
    """Collects and flushes. `budget` is in bytes per second and replica; 0 records nothing.

    `clock` is monotonic, in seconds; `now` gives seconds since the epoch, by which births go. `learn` is told what is
    known of a question after each comparison, as AnswerStore.learn. `in_force` are the lifetimes by class.
    """

    def __init__(
        self,
        link: RedisLink,
        metrics: Metrics,
        *,
        replica: str,
        budget: int,
        re_ask_share: float,
        background: Background | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        learn: Callable[[str, QuestionRecord, int], None] | None = None,
        in_force: Mapping[str, Lifetimes] | None = None,
    ) -> None:
        self.replicas = 1
        self._link = link
        self._metrics = metrics
        self._replica = replica
        self._rate = budget  # of one replica alone; several share what the stream takes
        self._clock = clock
        self._now = now
        self._learn = learn
        self._in_force = {} if in_force is None else in_force
        self.wanted = False  # whether somebody reads what we write
        self._own_ttls = False  # whether answers of late had TTLs of their own
        self._interval = INTERVAL
        self._sent = clock()
        self._batch_bytes = 0  # what the next batch may hold
        self._room = 0  # how many of these accesses may take
        self._used = 0  # how many they have taken
        self._threshold = 1.0
        self._accesses: list[Access] = []
        self._verdicts: list[Verdict] = []
        self._measured: list[Canary] = []
        self._judged = 0  # of which a fair sample is in `_verdicts`
        self._dropped = 0
        self._looked_up: Counter[str] = Counter()
        self._classes: set[str] = set()  # of the accesses
        self._weights: Counter[int] = Counter()
        self._heavy: frozenset[int] = frozenset()
        self._hits: Counter[tuple[str, int]] = Counter()
        self._background = background or Background(metrics)
        self._comparisons = self._background.jobs("answer-comparison")
        self._re_ask_share = re_ask_share
        self.re_asks = 0.0
        self._canaries = Canaries()
        self._flusher: BackgroundTask | None = None

    async def start(self) -> None:
        with self._background.noting("sample-writer"):
            with contextlib.suppress(RedisUnavailable):
                await self._link.pipeline("samples", _BOUND)
            await self.register()
        self._flusher = self._background.start("sample-writer", self._keep_flushing)

    async def stop(self) -> None:
        if self._flusher is not None:
            await self._flusher.stop()
        await self._comparisons.stop(wait=STOP_TIMEOUT)
        await self.settle()
        await self.flush()

    async def settle(self) -> None:
        """Wait until all comparisons that were begun are over."""
        await asyncio.gather(*self._comparisons.running)
        # Of those that have no task: the answer to this comes after those to all that was asked before.
        with contextlib.suppress(RedisUnavailable):
            await self._link.run("fingerprint", "HMGET", FINGERPRINT_KEY % "", "born")

    def accessed(
        self,
        key: str,
        class_name: str,
        entry: Entry | None,
        *,
        dollars: float,
        hit: bool,
        ttl: float | None = None,
        joined: bool = False,
    ) -> None:
        """One look-up; `entry` is what was found, good or not. `ttl` is the answer's own, where it has one: its hits
        count then, whether anybody reads samples or not. `joined`: it waited for a call that another had begun."""
        if ttl is not None and self._rate:
            self._own_ttls = True
        elif not self.wanted:
            return
        if hit and entry is not None:
            self._hits[key, entry.born] += 1
        if not self.wanted:
            return
        short = short_key(key)
        self._looked_up[class_name] += 1
        self._weights[short] += 1
        heavy = short in self._heavy
        if not heavy and short >= self._threshold * 2**48:
            return
        needed = BYTES_PER_RECORD + len(class_name)
        if class_name not in self._classes:
            needed += 2 * (BYTES_PER_CLASS + len(class_name))
        if self._used + needed > self._room:
            self._dropped += 1
            return
        self._used += needed
        self._classes.add(class_name)
        size = len(entry.body) if entry is not None else 0
        threshold = 1.0 if heavy else self._threshold
        told = (None, None) if hit else (ttl, joined)
        self._accesses.append(Access(short, class_name, self._now(), hit, size, dollars, threshold, *told))

    async def fetched(
        self,
        identity: Identity,
        class_name: str,
        entry: Entry,
        completion: dict[str, Any],
        how: Comparison,
        *,
        lifetimes: Lifetimes,
        compared_with: Entry | None,
        source: Source = "refetch",
    ) -> bool:
        """A new answer is here, with its body decoded: compare it with the last one of its key, in the background.

        `compared_with` is the answer that it was asked for to compare: unless the new one differs, which is what this
        gives, the last one stays what the next is compared with. Each other answer earns a share of such a re-ask.
        """
        if compared_with is None:
            self.re_asks = min(1.0, self.re_asks + self._re_ask_share)
            if lifetimes.canary:
                self._canaries.called(class_name, lifetimes.canary)
            if not self._rate:
                return True
        # In a thread where it is long: Python there lets the event loop run every few milliseconds.
        if len(entry.body) <= _LONG:
            digest = fingerprint(completion, how)
        else:
            digest = await asyncio.to_thread(fingerprint, completion, how)
        if self._rate and source == "refetch" and lifetimes.question is None:
            self._replace(identity, class_name, entry, digest, lifetimes)
        elif self._rate:
            self._comparisons.start(
                self._compare(identity, class_name, entry, digest, lifetimes, source=source)
            )
        if compared_with is None:
            return True
        last = msgspec.json.decode(compared_with.body)
        if len(compared_with.body) <= _LONG:
            return not same(digest, fingerprint(last, how))
        return not same(digest, await asyncio.to_thread(fingerprint, last, how))

    def _replace(
        self, identity: Identity, class_name: str, entry: Entry, digest: str, lifetimes: Lifetimes
    ) -> None:
        """As `_compare` where what is there does not matter for what comes in its place, as mostly: in one turn of
        Redis, and without a task that waits for it."""
        kept = _kept_ms(KEPT_FOR_TTLS * lifetimes.ttl)
        name = FINGERPRINT_KEY % identity.key
        replace = ("EVAL", _REPLACE, 1, name, kept, entry.born, digest, identity.version)
        done = functools.partial(self._replaced, identity, class_name, entry, digest)
        if not self._link.ask("fingerprint", [replace], done):
            self._comparisons.start(self._replace_slowly(replace, done))

    async def _replace_slowly(self, replace: Words, done: OnAnswers) -> None:
        with contextlib.suppress(RedisUnavailable):
            done(await self._link.pipeline("fingerprint", [replace]))

    def _replaced(
        self,
        identity: Identity,
        class_name: str,
        entry: Entry,
        digest: str,
        answers: list[Any] | RedisUnavailable,
    ) -> None:
        if isinstance(answers, RedisUnavailable):
            return
        try:
            last = None if None in answers[0] else _Last.read(*answers[0])
        except Undecodable as error:
            self._link.undecodable("fingerprint", error)
            return
        except Exception as error:  # noqa: BLE001  # a defect must not cost others the connection
            self._background.failures("answer-comparison").note(error)
            return
        # Born with it: Redis was asked twice, and this is what came in its place. For the version see `_compare`.
        if last is None or last.born == entry.born or last.version != identity.version:
            return
        if (alike := same(last.digest, digest)) is not None:
            hits = self._hits_of(identity, last)
            self._judge(identity, class_name, entry, last, hits, changed=not alike, source="refetch")

    def _hits_of(self, identity: Identity, last: _Last) -> int:
        """With those that were not flushed yet."""
        return last.hits + self._hits[identity.key, last.born]

    async def _compare(
        self,
        identity: Identity,
        class_name: str,
        entry: Entry,
        digest: str,
        lifetimes: Lifetimes,
        *,
        source: Source,
    ) -> None:
        asked_again, question = source != "refetch", lifetimes.question
        name, last = FINGERPRINT_KEY % identity.key, None
        learnt: tuple[bytes | None, bytes | None] = (None, None)
        with contextlib.suppress(RedisUnavailable):
            # Where there is nothing, or nothing of ours, there is nothing to compare with: it is replaced.
            try:
                [[*values, known, noise]] = await self._link.pipeline(
                    "fingerprint", [("HMGET", name, *_FIELDS)]
                )
                learnt = known, noise
                last = _Last.read(*values) if None not in values else None
            except RedisUndecodable:
                pass
            except Undecodable as error:
                self._link.undecodable("fingerprint", error)
            found = same(last.digest, digest) if last is not None else None
            ends = not asked_again or found is not True
            # After a purge a change is what somebody announced, not what time did.
            told = found if last is not None and last.version == identity.version else None
            hits = 0 if last is None else self._hits_of(identity, last)
            record: QuestionRecord | None = None
            knowing: list[Any] = []
            if question is not None:
                record, of_noise = self._updated(
                    learnt, last, entry, question, told, hits, re_asked=asked_again
                )
                for field, each in (("known", record), ("noise", of_noise)):
                    knowing += () if each is None else (field, msgspec.msgpack.encode(each))
            if ends:
                # For as long as it is worth keeping.
                worth = KEPT_FOR_TTLS * lifetimes.ttl if question is None else remembered(record, question)
                fields = ("born", entry.born, "digest", digest, "version", identity.version, "hits", 0)
                replacing: list[Words] = [
                    ("DEL", name),
                    ("HSET", name, *fields, *knowing),
                    ("PEXPIRE", name, _kept_ms(worth)),
                ]
                await self._link.pipeline("fingerprint", replacing)
            elif last is not None and knowing:
                await self._link.pipeline("fingerprint", [("EVAL", _KNOW, 1, name, last.born, *knowing)])
            if record is not None and last is not None and self._learn is not None:
                self._learn(identity.key, record, entry.born if ends else last.born)
            if last is not None and told is not None:
                self._judge(identity, class_name, entry, last, hits, changed=not told, source=source)

    def _read(self, reading: Callable[[bytes | None], _Known], stored: bytes | None) -> _Known | None:
        """What stands beside a fingerprint; None where it is none of ours."""
        try:
            return reading(stored)
        except Undecodable as error:
            self._link.undecodable("fingerprint", error)
            return None

    def _updated(
        self,
        learnt: tuple[bytes | None, bytes | None],
        last: _Last | None,
        entry: Entry,
        policy: QuestionPolicy,
        told: bool | None,
        hits: int,
        *,
        re_asked: bool,
    ) -> tuple[QuestionRecord | None, QuestionNoise | None]:
        """What is known of the question now. `learnt` stands beside the fingerprint; `told`: whether the answers were
        the same, as far as that says anything of time."""
        record = self._read(read_record, learnt[0])
        noise = self._read(read_noise, learnt[1])
        if last is None:
            return record, noise
        return updated(
            record,
            noise,
            fetched=last.born / 1e6,
            again=entry.born / 1e6,
            changed=None if told is None else not told,
            hits=hits,
            re_asked=re_asked,
            policy=policy,
        )

    def failed(self, class_name: str, source: Source) -> None:
        """A re-ask or a canary brought no answer."""
        self._metrics.cache_revalidations.labels(class_name, source, "error").inc()

    def draw_canary(self, class_name: str, share: float, chance: float) -> float:
        """For how many hits this one stands, 0 where it is not asked again to measure; `Canaries.draw`."""
        return self._canaries.draw(class_name, share, chance)

    def check_canary(self, class_name: str, chance: float, *, changed: bool) -> bool:
        """Whether to ask once more; `Canaries.check`."""
        return self._canaries.check(class_name, chance, changed=changed)

    def measured(self, canary: Canary) -> None:
        """What a canary found."""
        different = "reworded" if canary.reworded else "changed"
        verdict = different if canary.changed else "same"
        self._metrics.cache_canaries.labels(canary.class_name, verdict).inc()
        needed = BYTES_PER_CANARY + len(canary.class_name)
        if self.wanted and self._used + needed <= self._room:
            self._used += needed
            self._measured.append(canary)

    def spend_re_ask(self) -> None:
        """A hit is asked again for comparison: the next one when calls have earned it."""
        self.re_asks = 0.0

    def _judge(
        self,
        identity: Identity,
        class_name: str,
        entry: Entry,
        last: _Last,
        hits: int,
        *,
        changed: bool,
        source: Source,
    ) -> None:
        verdict = Verdict(
            key=short_key(identity.key),
            class_name=class_name,
            fetched=last.born / 1e6,
            again=entry.born / 1e6,
            changed=changed,
            hits=hits,
            source="refetch" if source == "refetch" else "re-ask",
        )
        if self.wanted:
            self._keep(verdict)
        self._metrics.cache_revalidations.labels(class_name, source, "changed" if changed else "same").inc()

    def _keep(self, verdict: Verdict) -> None:
        """Of those since the last batch, each is kept with the same probability (reservoir sampling, Vitter 1985)."""
        self._judged += 1
        if len(self._verdicts) < self._batch_bytes // 2 // _size(verdict):
            self._verdicts.append(verdict)
            return
        place = random.randrange(self._judged)  # noqa: S311
        if place < len(self._verdicts):
            self._verdicts[place] = verdict

    async def register(self) -> None:
        """See whether anybody reads; then say that we write, and count who else does."""
        if not self._rate:
            return
        with contextlib.suppress(RedisUnavailable):
            [read] = await self._link.pipeline("samples", [("EXISTS", SAMPLES_READER)])
            own_ttls, self._own_ttls = self._own_ttls, False
            if self.wanted and not read:
                self._take()
                self._looked_up.clear()
                self.wanted = False
            if not (read or own_ttls):
                self._hits.clear()
                return
            say = ("EVAL", REGISTER_SCRIPT, 1, REPLICAS, self._replica, GONE_AFTER)
            [replicas] = await self._link.pipeline("samples", [say])
            self.replicas = max(1, replicas)
            self._interval = interval(self.replicas)
            self._batch_bytes = max(0, int(min(self._rate * self._interval, BATCH_BYTES)) - _ENVELOPE)
            if read and not self.wanted:
                self.wanted, self._room = True, self._batch_bytes

    def _take(self) -> SampleBatch:
        """What was collected; collecting begins anew."""
        # Look-ups by class, as many classes as there is room for; the others go with a later batch.
        left = self._batch_bytes - self._used - sum(map(_size, self._verdicts))
        counts: dict[str, int] = {}
        for name, count in self._looked_up.most_common():
            left -= 0 if name in self._classes else BYTES_PER_CLASS + len(name)
            if name in self._classes or left > 0:
                counts[name] = count
        self._looked_up -= Counter(counts)
        batch = SampleBatch(
            self._replica,
            self._now(),
            self._accesses,
            self._verdicts,
            self._dropped,
            looked_up=counts,
            canaries=self._measured,
            ttls={name: self._in_force[name].ttl for name in self._classes & self._in_force.keys()},
            threshold=self._threshold,
        )
        self._accesses, self._verdicts, self._measured, self._dropped = [], [], [], 0
        self._used, self._judged, self._classes = 0, 0, set()
        return batch

    async def flush(self) -> None:
        """Write all that was collected."""
        await self._send()
        await self._add_hits()

    async def _send(self) -> None:
        self._sent = self._clock()
        used, wanted = self._used, sum(map(_size, self._verdicts)) * 5 // 4
        self._make_room()
        batch = self._take()
        self._room = self._batch_bytes - min(self._batch_bytes // 2, wanted)
        self._adapt(used, batch.dropped)
        encoded = msgspec.msgpack.encode(batch)

        write = [
            ("XADD", SAMPLES, "MAXLEN", STREAM_BATCHES, "*", b"b", encoded),
            ("XTRIM", SAMPLES, "MINID", f"{int((batch.at - STREAM_AGE) * 1000)}-0"),
            ("PEXPIRE", SAMPLES, int(STREAM_AGE * 1000)),
        ]
        if (
            self.wanted
            and (batch.accesses or batch.verdicts or batch.canaries)
            and len(encoded) <= BATCH_BYTES
        ):
            with contextlib.suppress(RedisUnavailable):
                try:
                    await self._link.pipeline("samples", write)
                except RedisUndecodable:  # it is somebody else's, under our name: the next batch finds room
                    await self._link.run("samples", "DEL", SAMPLES)

    def _make_room(self) -> None:
        """Keep a fair sample of the comparisons that fit beside the accesses; the next time they are left more room."""
        left = self._batch_bytes - self._used
        while self._verdicts and sum(map(_size, self._verdicts)) > left:
            count = len(self._verdicts)
            kept = sorted(random.sample(range(count), count * 3 // 4))
            self._verdicts = [self._verdicts[place] for place in kept]

    async def _add_hits(self) -> None:
        """Add the hits that were counted here to the fingerprints of their answers."""
        hits, self._hits = self._hits, Counter()
        counted = hits.most_common(COUNTED_KEYS)
        with contextlib.suppress(RedisUnavailable):
            for start in range(0, len(counted), _HITS_AT_ONCE):
                add: list[Words] = [
                    ("EVAL", _ADD_HITS, 1, FINGERPRINT_KEY % key, born, count)
                    for (key, born), count in counted[start : start + _HITS_AT_ONCE]
                ]
                await self._link.pipeline("samples", add)

    def _adapt(self, used: int, dropped: int) -> None:
        """Keep within the budget, and know the heaviest keys of late."""
        if dropped:
            self._threshold /= 2
        elif used < self._batch_bytes / 4:
            self._threshold = min(1.0, self._threshold * 2)
        heaviest = self._weights.most_common(COUNTED_KEYS)
        self._heavy = frozenset(key for key, count in heaviest[:HEAVY_KEYS] if count > 1)
        self._weights = Counter({key: count // 2 for key, count in heaviest if count > 1})

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self.turn()

    async def turn(self) -> None:
        """What is done each `INTERVAL`."""
        await self.register()
        self._canaries.fade(INTERVAL)
        if self.wanted and self._clock() > self._sent + self._interval - INTERVAL / 2:
            await self._send()
        await self._add_hits()


def interval(replicas: int) -> float:
    """Seconds between two batches of one of so many replicas."""
    reach = min(replicas * REACH / STREAM_BATCHES, LONGEST_WAIT)
    return max(INTERVAL, reach, replicas * LEAST_REACH / STREAM_BATCHES)


def _kept_ms(worth: float) -> int:
    """Milliseconds for which a fingerprint is kept that is worth so many seconds."""
    return int(max(worth, KEPT_AT_LEAST) * 1000)


def _size(verdict: Verdict) -> int:
    return BYTES_PER_RECORD + len(verdict.class_name)


def fingerprint(completion: dict[str, Any], how: Comparison) -> str:
    """Of an answer's messages, without ids, dates and token counts."""
    messages, texts = [], []
    for choice in completion.get("choices", []):
        message = choice.get("message") or {}
        calls, content = message.get("tool_calls") or (), message.get("content")
        messages.append({**message, "tool_calls": [{**call, "id": None} for call in calls]})
        if content is not None and not isinstance(content, str):
            content = _canonical(content).decode()
        texts.append(content or "")
    compared: list[Any] = messages
    sketch = ""
    if how == "sketch":
        text = " ".join(texts)
        compared = [sorted(set(_NUMBER.findall(text))), [message["tool_calls"] for message in messages]]
        sketch = f":{_sketch(text)}"
    elif how != "exact":
        reading = _value if how == "json" else _plain
        for message, text in zip(messages, texts, strict=True):
            message["content"] = reading(text)
    return f"{how}:{hashlib.blake2b(_canonical(compared), digest_size=16).hexdigest()}{sketch}"


def is_fingerprint(text: str) -> bool:
    """Whether `fingerprint` can have made it, of this release or another."""
    return _FINGERPRINT.fullmatch(text) is not None


def same(one: str, other: str) -> bool | None:
    """Whether two fingerprints are of answers that say the same; None where they cannot be compared."""
    if one.partition(":")[0] != other.partition(":")[0]:
        return None
    if not one.startswith("sketch:"):
        return one == other
    _, exact, sketch = one.split(":")
    _, other_exact, other_sketch = other.split(":")
    return exact == other_exact and _resemblance(sketch, other_sketch) >= SIMILAR


def _plain(text: str) -> str:
    """NFKC; of a text with long words a part at a time: a row of accents on one letter is sorted in quadratic time."""
    if not text.isascii():
        longest = max(map(len, text.split()), default=0)
        step = _LONGEST_WORD if longest > _LONGEST_WORD else max(len(text), 1)
        parts = (text[at : at + step] for at in range(0, len(text), step))
        text = "".join(unicodedata.normalize("NFKC", part) for part in parts)
    if text.isascii():  # as most are
        return _plain_ascii(text)
    words = [word.strip(_PUNCTUATION) for word in text.casefold().split()]
    return " ".join(filter(None, words))


def _plain_ascii(text: str) -> str:
    """The same with nothing done for each word."""
    # The commonest, by what is faster than an expression.
    line = text.encode().translate(_IN_ONE_CASE).replace(b", ", b" ").replace(b". ", b" ")
    for _ in range(2):  # behind spaces, then before them
        line = _BESIDE_SPACE.sub(b" ", line)[::-1]
    return line.strip(_AROUND).decode()


def _value(text: str) -> msgspec.Raw | str:
    """What is nested too deep to be read, or to be written again, is text."""
    try:
        return msgspec.Raw(_canonical(msgspec.json.decode(text)))
    except (ValueError, RecursionError):
        return _plain(text)


def _sketch(text: str) -> str:
    """The least hashes of its shingles, eight hexadecimal digits each."""
    words = _plain(text).split()
    shingles = {" ".join(words[at : at + _WORDS]) for at in range(max(1, len(words) - _WORDS + 1))}
    hashes = sorted(hashlib.blake2b(shingle.encode(), digest_size=4).hexdigest() for shingle in shingles)
    return "".join(hashes[:SKETCH])


def _resemblance(one: str, other: str) -> float:
    """Of the least hashes of both together, the share that both have."""
    mine, theirs = _hashes(one), _hashes(other)
    least = sorted(mine | theirs)[:SKETCH]
    return sum(each in mine and each in theirs for each in least) / len(least)


def _hashes(sketch: str) -> set[str]:
    return {sketch[at : at + 8] for at in range(0, len(sketch), 8)}
