"""Vectors of texts: each text is a question of its own, which is looked up, joined or asked.

    read -> prepare -> memory, then `cache.flights` for each text that is not there -> hit, or joined, here or elsewhere
                       those that lead are asked together, in one call              -> stored, each by itself

A text has its own key, so a batch of a hundred of which ninety are known asks for ten, and two batches that share texts
ask for each once. Flights decide who leads, for each text by itself; which of them do is known a moment later, and
those go to the provider as one call, split where that is more than it takes at once. A call is cancelled when none of
its texts is waited for any more.

A vector depends on its text alone, so a call that a provider refuses for one text's sake says nothing about the others:
who only joined asks again, without the one that was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import msgspec

from dub5.admission.keys import Caller
from dub5.cache.flights import CacheAnswer, CacheStatus, Flights, Forward
from dub5.cache.freshness import Directives
from dub5.cache.policies import Policies
from dub5.cache.purges import names_of
from dub5.cache.store import VECTOR_KEY, CacheHit, CacheLookup, Entry, Identity
from dub5.chat.answer import CallNotes, Usage
from dub5.chat.catalog import Catalog, Target
from dub5.chat.embeddings_request import EmbeddingsRequest, Text, tokens_of
from dub5.chat.pipeline import Services
from dub5.chat.question import answer_key, scope_of
from dub5.errors import Dub5Error, InvalidRequest, NotCached, shutting_down, without_trace
from dub5.frames import Frame
from dub5.json_steps import LARGE
from dub5.providers.protocol import BatchLimit, Call
from dub5.shares import may_take_one
from dub5.telemetry.background import Background
from dub5.telemetry.record import RequestRecord
from dub5.vectors import NoVector, Vector

_LINGER = 0.005
"""Seconds for which a call waits for more texts, while it is not known who leads for them."""

_GROUPS = 4
"""Calls that one request has under way at a time."""

_LARGE_GROUP = 32
_LARGE_GROUPS = 20
"""Calls for so many texts or more that are under way on this replica at a time, or wait for a slot, 16 of them for one
model: each of their texts has a lease, which is renewed each second."""

_READ_AT_ONCE = 64
"""Texts that are looked up in Redis in one go: their vectors come together."""

_STEP = 128
"""Texts that are worked on without a pause, and bytes of them, times 1024."""

_WORST_FIRST = ("stale-if-error", "stale-while-revalidate", "max-stale", "shared", "local")
"""The `detail` of a hit is that of the worst of its texts."""

_FORWARDS: tuple[Forward, ...] = ("bypass", "request", "stale", "uri-miss")
"""The same of what was asked for."""

_encode = msgspec.json.Encoder().encode


class Item:
    """One text of a request: a Question for `cache.flights`. Its `size` is that of it as JSON.

    `lookup` is None where the cache is not to be used. Once it is answered it has its `vector`, and how that came:
    `found`. `stored` says that the vector was made here, and kept.
    """

    __slots__ = ("bypass", "found", "lookup", "record", "size", "stored", "text", "vector")

    def __init__(
        self,
        text: Text,
        size: int,
        lookup: CacheLookup | None,
        bypass: str | None,
        record: RequestRecord,
    ) -> None:
        self.text = text
        self.size = size
        self.lookup = lookup
        self.bypass = bypass
        self.record = record
        self.vector: Vector | None = None
        self.found: CacheAnswer | None = None
        self.stored = False

    @property
    def hit(self) -> CacheHit | None:
        return None if self.found is None else self.found.hit

    @property
    def joined(self) -> bool:
        return self.found is not None and self.found.status.collapsed

    def take(self, found: CacheAnswer) -> None:
        """NoVector where it has none: what came through Redis was checked, but by whom?"""
        hit = found.hit
        if hit is None and not found.frames:
            raise NoVector("no frame")
        self.vector = Vector.stored(found.frames[0].raw if hit is None else hit.entry.body)
        self.found = found


class Batch(msgspec.Struct, kw_only=True):
    """A request, resolved. `bypass` says why the cache is not to be used; at `deadline`, in seconds of time.monotonic,
    the caller stops waiting. `asked_tokens` are those that a provider was asked for."""

    request: EmbeddingsRequest
    target: Target
    items: list[Item]
    bypass: str | None
    record: RequestRecord
    deadline: float | None = None
    asked_tokens: int = 0

    def missing(self) -> list[Item]:
        return [item for item in self.items if item.vector is None]

    def tokens_due(self) -> int:
        """Those of a batch that is given up, by the length of what providers may still be at."""
        return self.asked_tokens + sum(tokens_of(item.text) for item in self.missing() if item.record.called)


class Vectors(msgspec.Struct, frozen=True):
    """The answer: a vector for each text of the input, in its order. `tokens` are those of the whole input."""

    vectors: list[Vector]
    tokens: int
    status: CacheStatus
    age: float | None


class Embedder:
    """Answers requests for vectors. `undecodable` as that of the Pipeline."""

    def __init__(
        self,
        catalog: Catalog,
        flights: Flights,
        services: Services,
        *,
        policies: Policies,
        undecodable: Callable[[str, object], None],
        background: Background,
    ) -> None:
        self._catalog = catalog
        self._flights = flights
        self._policies = policies
        self._undecodable = undecodable
        self._large_groups = _Places(_LARGE_GROUPS)
        self.services = services
        self.store = services.store
        self.jobs = background.jobs("embedding-call")

    async def prepare(
        self,
        request: EmbeddingsRequest,
        *,
        caller: Caller,
        directives: Directives,
        tags: tuple[str, ...],
        record: RequestRecord,
        deadline: float | None = None,
    ) -> Batch:
        """Resolve the model and the key of each text, and look into memory. CallerError where it cannot be answered,
        NotCached where only what is stored may be given, and this never is."""
        caller.require_model(request.model)
        target = self._catalog[request.model]
        if target.personality is not None:
            raise InvalidRequest(
                f"`{target.name}` is a personality, and those have no vectors: name a model.", param="model"
            )
        record.model = target.model.name
        bypass = self._why_not_cached(target, directives)
        if bypass is not None and directives.only_if_cached:
            raise NotCached(f"Vectors for this request are not cached: {bypass}.")
        batch = Batch(
            request=request, target=target, items=[], bypass=bypass, record=record, deadline=deadline
        )
        lookup_of = self._lookups(batch, caller, directives, tags)
        refreshes = _Calls(self, batch, background=True)
        worked = 0
        for text in request.texts:
            encoded = _encode(text)
            item = Item(text, len(encoded), lookup_of(encoded), bypass, record)
            batch.items.append(item)
            if bypass is None and not directives.no_cache:
                found = self._flights.recall(item, _ItemLeader(item, refreshes, refreshes))
                if found is not None:
                    item.take(found)
            worked += 1024 + item.size
            if worked > _STEP * 1024:
                worked = 0
                await asyncio.sleep(0)
        return batch

    def _why_not_cached(self, target: Target, directives: Directives) -> str | None:
        if not self.store.enabled:
            return "disabled"
        if target.cache_class.cacheable == "never":
            return "class"
        return "no-store" if directives.no_store else None

    def _lookups(
        self, batch: Batch, caller: Caller, directives: Directives, tags: tuple[str, ...]
    ) -> Callable[[bytes], CacheLookup | None]:
        """Gives the look-up of a text, as JSON."""
        if batch.bypass is not None:
            return lambda _: None
        request, target, price = batch.request, batch.target, batch.target.model.price
        share, tenant = target.cache_class.share, caller.tenant
        common = answer_key(
            request.fields,
            scope=scope_of(share, tenant=tenant, key_id=caller.identity, user=request.user),
            personality_revision="",
            model_revision=target.model.revision,
            tags=tags,
        )
        hashing = hashlib.blake2b(common.encode(), digest_size=20)
        names = names_of(
            tenant=tenant, class_name=target.class_name, model=target.model.name, personality=None, tags=tags
        )
        # Vectors do not change, and nothing is learnt of single ones.
        lifetimes = msgspec.structs.replace(self._policies.in_force[target.class_name], question=None)
        prices = (price.input / 1e6, price.output / 1e6)
        # What a provider refuses is a call for several texts: no other batch is refused for it. Callers may give
        # several requests one id; the span is ours.
        words = (tenant, batch.record.trace.span_id)

        def lookup_of(text: bytes) -> CacheLookup:
            hashed = hashing.copy()
            hashed.update(text)
            return CacheLookup(
                VECTOR_KEY + hashed.hexdigest(),
                names,
                lifetimes,
                directives,
                target.class_name,
                words=words,
                prices=prices,
                may_re_ask=False,  # what is compared is completions
            )

        return lookup_of

    async def answer(self, batch: Batch) -> Vectors:
        """From memory, Redis or a provider. Raises a Dub5Error with its true status."""
        missing, timings = batch.missing(), batch.record.timings
        if missing:
            started = time.perf_counter()
            window = asyncio.Semaphore(_GROUPS)
            async with _together() as groups:
                for items in groups_of(missing, batch.target.model.batch_limit):
                    await window.acquire()
                    groups.create_task(self._ask_group(batch, items, window))
            timings["provider"] = time.perf_counter() - started - timings.get("queue", 0.0)
        self._count_lookups(batch)
        return self._vectors(batch)

    async def _ask_group(self, batch: Batch, items: list[Item], window: asyncio.Semaphore) -> None:
        """At once for all that are to be asked in one call, as far as we lead."""
        try:
            large, model = len(items) >= _LARGE_GROUP, batch.target.slots_of
            async with self._large_groups.one_for(model) if large else contextlib.nullcontext():
                await self._ask_together(batch, items)
        except (Dub5Error, asyncio.CancelledError) as error:
            # Its trace has the frame of a group that knows this task, and this task keeps the trace: a cycle.
            raise without_trace(error) from None
        finally:
            window.release()

    async def _ask_together(self, batch: Batch, items: list[Item]) -> None:
        calls = _Calls(self, batch)
        async with _together() as asking:
            for number, item in enumerate(items):
                if number % _READ_AT_ONCE == _READ_AT_ONCE - 1:
                    await asyncio.sleep(0)
                calls.open += 1
                asking.create_task(self._ask(batch, item, calls))
            calls.begin_where_known()

    async def _ask(self, batch: Batch, item: Item, calls: _Calls) -> None:
        # Of its own, for what flights note of each: who is waited for, and for how long.
        item.record = msgspec.structs.replace(batch.record, timings={})
        leader, alone = _ItemLeader(item, calls, calls.in_background()), False
        try:
            while item.vector is None:
                found = await self._flights.answer(item, leader, alone=alone)
                try:
                    item.take(found)
                except NoVector:
                    if found.hit is None and found.led_here:
                        raise
                    # Another replica's frames came through Redis, and are not what a leader sends: as if it were lost.
                    self._undecodable("flight", "no vector")
                    alone = True
            item.stored = leader.stored and not item.joined
            if item.joined and item.record.leader_request_id is not None:
                batch.record.leader_request_id = item.record.leader_request_id
                batch.record.leader_trace_id = item.record.leader_trace_id
        finally:
            calls.open -= 1
            calls.begin_where_known()

    def _count_lookups(self, batch: Batch) -> None:
        """Each text is one."""
        lookups, class_name = self.services.metrics.cache_lookups, batch.target.class_name
        for item in batch.items:
            lookups.labels(class_name, _result(batch, item)).inc()

    def _vectors(self, batch: Batch) -> Vectors:
        found = [item.vector for item in batch.items if item.vector is not None]
        model, record = batch.target.model, batch.record
        free = sum(
            item.vector.tokens
            for item in batch.items
            if item.vector is not None and (item.hit is not None or item.joined)
        )
        if free:
            self.services.metrics.count_saved(model.name, *Usage(free).dollars(model.price))
        vectors = [found[position] for position in batch.request.positions]
        tokens = sum(vector.tokens for vector in vectors)
        record.prompt_tokens, record.completion_tokens = tokens, 0
        status = status_of(batch)
        ages = [item.hit.age for item in batch.items if item.hit is not None]
        return Vectors(vectors, tokens, status, max(ages) if status.hit else None)


class _Places:
    """So many in all, of which no model takes those that the others need (`shares`)."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._held: Counter[str] = Counter()
        self._given_back = asyncio.Event()

    @contextlib.asynccontextmanager
    async def one_for(self, model: str) -> AsyncIterator[None]:
        """As soon as it may have one."""
        while not may_take_one(self._held[model], self._free):
            await self._given_back.wait()
        self._free -= 1
        self._held[model] += 1
        try:
            yield
        finally:
            self._free += 1
            self._held[model] -= 1
            self._given_back.set()  # wakes all that wait now, and they look again
            self._given_back.clear()


def groups_of(items: Sequence[Item], limit: BatchLimit) -> Iterator[list[Item]]:
    """Of at most `limit`, in order; an item that is larger than that is one by itself."""
    group: list[Item] = []
    size = 0
    for item in items:
        if group and (len(group) >= limit.items or size + item.size > limit.bytes):
            yield group
            group, size = [], 0
        group.append(item)
        size += item.size + 1
    if group:
        yield group


@contextlib.asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """All or none: the first error is that of all."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        # The group has a frame of its own in its trace: a cycle, with all that was asked.
        raise without_trace(failed).exceptions[0] from None
    except asyncio.CancelledError as left:  # which the group has in that frame
        raise without_trace(left) from None


def _result(batch: Batch, item: Item) -> str:
    """The label of its look-up."""
    if item.hit is not None:
        return item.hit.result
    if batch.bypass is not None:
        return "bypass"
    return "collapsed" if item.joined else "miss"


def status_of(batch: Batch) -> CacheStatus:
    """Of the whole batch (RFC 9211): `hit` where all of it was stored, `fwd=partial` where some of it was."""
    all_found = [item.found.status for item in batch.items if item.found is not None]
    hits = [each for each in all_found if each.hit]
    asked = [item for item in batch.items if item.hit is None]
    if not asked:
        details = {each.detail for each in hits}
        detail = next(each for each in _WORST_FIRST if each in details)
        return CacheStatus(hit=True, ttl=min(each.ttl or 0.0 for each in hits), detail=detail)
    forwards = {each.fwd for each in all_found}
    status = CacheStatus(
        fwd=next(each for each in _FORWARDS if each in forwards),
        stored=all(item.stored or item.joined for item in asked) and any(item.stored for item in asked),
        collapsed=all(item.joined for item in asked),
        detail=batch.bypass,
    )
    if not hits:
        return status
    return msgspec.structs.replace(status, fwd="partial", detail=f'"{len(hits)} of {len(batch.items)}"')


class _ItemLeader:
    """What the flight of one text does where it leads: a Leader.

    It stores the vector itself, so nothing is left to do for what it `made`: what the operator compares is completions.
    """

    made = None

    def __init__(self, item: Item, calls: _Calls, refreshes: _Calls) -> None:
        self.stored = False
        self._item = item
        self._calls = calls
        self._refreshes = refreshes

    def again(self) -> _ItemLeader:
        return _ItemLeader(self._item, self._refreshes, self._refreshes)

    async def call(self, identity: Identity | None, on_frames: Callable[[list[Frame]], None]) -> None:
        share = self._calls.add(self._item)
        try:
            call = await share.call()
        finally:
            share.leave()
        vector = call.vectors[id(self._item)]
        form = vector.form()
        on_frames([Frame("whole", form)])
        lookup = self._item.lookup
        if identity is not None and lookup is not None:
            entry = Entry(form, call.born, call.recompute, vector.tokens, 0)
            self.stored = await self._calls.embedder.store.store(identity, entry, lookup.lifetimes)


class _Calls:
    """The calls for texts of one request that turn out to be led here, as a rule one.

    `open` is for how many texts it may be known yet that they are, with those that wait for a call; as soon as only
    those are left, or no more come for a moment, the call begins.
    """

    def __init__(self, embedder: Embedder, batch: Batch, *, background: bool = False) -> None:
        self.embedder = embedder
        self.batch = batch
        self.open = 0
        self._background = background
        self._waiting: list[_Share] = []
        self._timer: asyncio.TimerHandle | None = None
        self._refreshes: _Calls | None = None

    def in_background(self) -> _Calls:
        """For refreshes: nobody waits."""
        if self._refreshes is None:
            self._refreshes = _Calls(self.embedder, self.batch, background=True)
        return self._refreshes

    def add(self, item: Item) -> _Share:
        share = _Share(item)
        self._waiting.append(share)
        self.begin_where_known()
        return share

    def begin_where_known(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            # Not in this turn: the tasks of texts that were just begun have not run yet, or not all of them.
            later = 0.0 if len(self._waiting) >= self.open and not self._background else _LINGER
            self._timer = loop.call_later(later, self._begin)

    def _begin(self) -> None:
        self._timer = None
        shares = {id(share.item): share for share in self._waiting if not share.left}
        self._waiting = []
        items = [share.item for share in shares.values()]
        for some in groups_of(items, self.batch.target.model.batch_limit):
            call = _EmbeddingCall(self.embedder, self.batch, some, background=self._background)
            for item in some:
                shares[id(item)].begin(call)


class _Share:
    """One text's part in a call that it waits for. Leave it, always."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.left = False
        self._call: _EmbeddingCall | None = None
        self._begun = asyncio.Event()

    def begin(self, call: _EmbeddingCall) -> None:
        self._call = call
        self._begun.set()

    async def call(self) -> _EmbeddingCall:
        """Once it is over. Raises its error."""
        await self._begun.wait()
        call = self._call
        assert call is not None  # noqa: S101  # `begin` sets both
        await call.over.wait()
        if call.error is not None:
            raise call.error.with_traceback(None)
        if not call.vectors:
            raise shutting_down()  # it was cancelled: the process ends
        return call

    def leave(self) -> None:
        self.left = True
        if self._call is not None:
            self._call.leave()


class _EmbeddingCall:
    """One call to a provider, for the vectors of `items`; begun at once. Cancelled when all its shares are left.

    Once it is `over` it has an `error`, or the `vectors` by the ids of their items. `born` is in microseconds since the
    epoch, `recompute` in seconds.
    """

    def __init__(
        self, embedder: Embedder, batch: Batch, items: list[Item], *, background: bool = False
    ) -> None:
        self.vectors: dict[int, Vector] = {}
        self.error: Exception | None = None
        self.over = asyncio.Event()
        self.born = 0
        self.recompute = 0.0
        self._services = embedder.services
        self._batch = batch
        self._items = items
        self._background = background
        self._shares = len(items)
        self._task: asyncio.Task[None] | None = embedder.jobs.start(self._run())

    def leave(self) -> None:
        self._shares -= 1
        if not self._shares and self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._ask()
        except Dub5Error as error:
            self.error = error
        except Exception as error:
            self.error = error
            raise  # to be noted
        finally:
            self.over.set()
            self._task = None  # where it was cancelled it keeps the trace of that, which leads here

    async def _ask(self) -> None:
        """Raises a Dub5Error where no provider answers."""
        batch, services, first = self._batch, self._services, self._items[0]
        record, model = batch.record, batch.target.model
        if self._background:  # the request may be over
            record = msgspec.structs.replace(record, timings={})
        notes = CallNotes(
            record,
            model,
            services.metrics,
            services.tracer,
            background=self._background,
            operation="embeddings",
        )
        slot = await services.gate.enter(
            record.tenant or "",
            batch.target.slots_of,
            record.request_id if first.lookup is None else first.lookup.key,
            deadline=None if self._background else batch.deadline,
            background=self._background,
        )
        record.timings["queue"] = max(slot.waited, record.timings.get("queue", 0.0))
        if not self._background:
            for item in self._items:
                item.record.called = True
        began, started, born = time.time(), time.perf_counter(), services.store.now()
        error = None
        try:
            embedded = await model.embed(self._call(notes), notes.observe)
        except Dub5Error as failure:
            error = failure.code
            raise
        finally:
            services.gate.leave(slot)
            if services.tracer.enabled:
                notes.export(began, error)
        self.recompute = time.perf_counter() - started
        self.born = int((born - notes.age) * 1e6)
        notes.count(Usage(embedded.tokens))
        if not self._background:
            batch.asked_tokens += embedded.tokens
        shares = shares_of(embedded.tokens, [tokens_of(item.text) for item in self._items])
        for item, vector, tokens in zip(self._items, embedded.vectors, shares, strict=True):
            self.vectors[id(item)] = msgspec.structs.replace(vector, tokens=tokens)

    def _call(self, notes: CallNotes) -> Call:
        batch = self._batch
        return Call(
            model="",
            body={**batch.request.fields, "input": [item.text for item in self._items]},
            stream=False,
            large=sum(item.size for item in self._items) >= LARGE,
            headers={"x-request-id": batch.record.request_id, "traceparent": notes.trace.traceparent()},
        )


def shares_of(tokens: int, sizes: list[int]) -> list[int]:
    """Of the tokens of a call those of each text, in proportion to their sizes: providers say the sum alone. They add
    up to it."""
    whole, so_far, given = max(1, sum(sizes)), 0, 0
    shares = []
    for size in sizes:
        so_far += size
        upto = tokens * so_far // whole
        shares.append(upto - given)
        given = upto
    return shares
