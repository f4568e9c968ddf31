"""Which replica asks the provider, and how the others get the answer as it arrives.

1. *Claim.* One script says who leads: whoever finds no lease takes it, with a new epoch; the others learn the
   leader's name. It also finds an answer that was stored since the caller's look-up, so none is asked for twice.
2. *Follow.* A follower says so to the leader's replica, over pub/sub, and again each second as a heartbeat.
   Only then does the leader publish its frames, from the first one on: an answer that nobody elsewhere waits
   for costs Redis nothing.
3. *Publish.* Frames are appended to the stream of this epoch by a script that checks the lease first (fencing):
   a leader that was paused and lost its lease cannot write, and its successor has another stream. Frames that
   arrive while an append is under way go together in the next one.
4. *Read.* One reader per replica fetches all followed streams in one pipeline, when a leader wakes it and
   at least each quarter of a second, so a lost message costs a moment and nothing else.
5. *End.* The leader appends the end, or its error, and gives the lease back. A lease that is gone without an
   end is a lost leader; so is a Redis that does not answer.

The lease lives `LEASE` seconds and is renewed each second.

What is found under these names and cannot be ours stands in nobody's way: what is no lease is taken, a leader whose
frames cannot be read is lost, a message that cannot be read was none.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from redis.asyncio.client import Pipeline

from dub5.cache.entry import (
    BORN_AT,
    BORN_DIGITS,
    HEADER,
    TOLERANCE,
    VECTOR_KEY,
    Identity,
    born_digits,
    check_answer,
)
from dub5.cache.flights import Asker, Claim, Flight, Frame, Tailed
from dub5.contract import (
    Undecodable,
    cooldown_key,
    decode,
    entry_key,
    epoch_key,
    flight_stream,
    lease_key,
    replica_channel,
)
from dub5.errors import CallerError, from_wire, to_wire
from dub5.redis.link import RedisLink, RedisUnavailable, RedisUndecodable
from dub5.telemetry.background import Background, BackgroundTask

LEASE = 4.0
HEARTBEAT = 1.0
FOLLOWER_TIMEOUT = 3.5
READ_INTERVAL = 0.25
STREAM_LIFE = 120.0
"""Seconds that frames are kept after the last one; longer than a provider may pause between two."""

_MOST_TOKEN = 512
"""Bytes of a lease, at most."""
_PAGE = 500
"""Entries of a stream that are read at a time."""
_MOST_FRAMES = 64 * 2**20
"""Bytes of what is appended at once, at most; the link has a bound for what is read at once."""
_MOST_END = 2**20
_MOST_MESSAGE = 4096
_RENEWED = 256
"""Leases that are renewed at a time."""
_MOST_REPLICAS = 1000
"""Replicas that may follow one flight."""

# A lease that is no string of the right form, or that does not expire soon, is nobody's; nor is an epoch that nobody
# counted to.
_CLAIM = """
local entry = redis.pcall('GETRANGE', KEYS[3], 0, ARGV[7])
if type(entry) == 'string' and string.sub(entry, 1, #ARGV[5]) == ARGV[5] then
  local born = string.sub(entry, ARGV[6] + 1)
  if born > ARGV[3] and born <= ARGV[8] then return {'stored', ''} end
end
local lease = redis.pcall('GETRANGE', KEYS[1], 0, MOST)
if type(lease) == 'string' and #lease <= MOST and string.find(lease, '^%d+:[%w_:.-]+$') then
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 and left <= 15 * ARGV[2] then
    return {string.sub(lease, -#ARGV[1]) == ARGV[1] and 'lead' or 'follow', lease}
  end
end
if ARGV[4] == '1' and redis.call('EXISTS', KEYS[4]) == 1 then return {'cooling', ''} end
local epoch = redis.pcall('INCR', KEYS[2])
if type(epoch) ~= 'number' or epoch < 1 or epoch > 1e13 then
  epoch = redis.call('TIME')[1] * 1000
  redis.call('SET', KEYS[2], string.format('%.0f', epoch))
end
local token = string.format('%.0f', epoch) .. ':' .. ARGV[1]
redis.call('EXPIRE', KEYS[2], 86400)
redis.call('SET', KEYS[1], token, 'PX', ARGV[2])
return {'lead', token}
""".replace("MOST", str(_MOST_TOKEN))
_RENEW = "if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RELEASE_MINE = """
local lease = redis.pcall('GET', KEYS[1])
if type(lease) == 'string' and string.sub(lease, -#ARGV[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
_APPEND = """
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('XADD', KEYS[2], '*', ARGV[3], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
for index = 6, #ARGV do redis.call('PUBLISH', ARGV[index], ARGV[5]) end
return 1
"""
_PUBLISH = "return redis.call('PUBLISH', ARGV[1], ARGV[2])"
"""In a script, since the client refuses the command itself in a pipeline to a Cluster."""

_Word = Annotated[str, Meta(min_length=1, max_length=200)]


class _Own(msgspec.Struct, frozen=True):
    status: Annotated[int, Meta(ge=400, le=599)] | None = None
    type: _Word | None = None
    code: _Word | None = None
    should_retry: bool | None = None


class _End(msgspec.Struct, frozen=True):
    """What `to_wire` gives, and whose request it was."""

    message: Annotated[str, Meta(max_length=100_000)]
    code: _Word
    param: Annotated[str, Meta(max_length=10_000)] | None = None
    retry_after: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    own: _Own = _Own()
    origin: bytes | None = None

    def wire(self) -> dict[str, Any]:
        own = {name: value for name, value in msgspec.structs.asdict(self.own).items() if value is not None}
        return {**msgspec.structs.asdict(self), "own": own}


_frames_decoder = msgspec.msgpack.Decoder(list[Frame])
_end_decoder = msgspec.msgpack.Decoder(_End)


class Message(msgspec.Struct, frozen=True, array_like=True):
    """What replicas send each other about a flight."""

    kind: Literal["follow", "leave", "wake"]
    identity: Identity
    sender: Annotated[str, Meta(max_length=100)]


_message_decoder = msgspec.msgpack.Decoder(Message)


class _Led:
    """A flight that this replica leads: the channels of replicas that follow, each with when it was last heard, and the
    publisher."""

    def __init__(self, flight: Flight, claim: Claim) -> None:
        self.flight = flight
        self.claim = claim
        self.heard: dict[str, float] = {}
        self.publisher: asyncio.Task[None] | None = None
        self.ending = False


class _Tail:
    """A flight that another replica leads: how far we have read, and how it came out."""

    def __init__(self, flight: Flight, claim: Claim) -> None:
        self.flight = flight
        self.claim = claim
        self.last = "-"
        self.published = 0.0
        self.read = time.monotonic()
        self.outcome: asyncio.Future[Tailed] = asyncio.get_running_loop().create_future()

    def finish(self, outcome: Tailed) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def take(self, fields: dict[bytes, bytes]) -> None:
        """One entry of the stream: frames, or the end. Undecodable where it is neither."""
        if self.outcome.done():
            return
        if b"frames" in fields:
            frames = decode(_frames_decoder, fields[b"frames"], most=_MOST_FRAMES)
            for frame in frames:
                _check(frame, self.claim.identity.key)
            if len(self.flight.frames) + len(frames) > 1 and any(frame.kind == "whole" for frame in frames):
                raise Undecodable("a whole answer among others")
            self.flight.add(*frames)
        elif b"end" in fields:
            end = fields[b"end"]
            self._ended(decode(_end_decoder, end, most=_MOST_END) if end else None)
        else:
            raise Undecodable("neither frames nor an end")

    def _ended(self, end: _End | None) -> None:
        error = from_wire(end.wire()) if end is not None else None
        if end is not None and isinstance(error, CallerError) and end.origin != self.flight.origin:
            self.finish(Tailed.REFUSED)
        else:
            self.flight.end(error)
            self.finish(Tailed.ENDED)


def _check(frame: Frame, key: str) -> None:
    """Undecodable where it is no whole answer to that key's question, and no JSON object on one line, as every other
    frame is that we send."""
    if not key.startswith(VECTOR_KEY) and (b"\n" in frame.raw or b"\r" in frame.raw):
        raise Undecodable("a frame of several lines")
    if frame.kind == "whole":
        check_answer(key, frame.raw)
    elif not _is_object(frame.raw):
        raise Undecodable("a chunk that is no object")


def _is_object(raw: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(raw), dict)
    except (ValueError, RecursionError):
        try:  # a chunk may have half of a character as an escape, which only Python reads
            return isinstance(json.loads(raw), dict)
        except (ValueError, RecursionError):
            return False


class Leases:
    """This replica's side of the leases. `start` after the link, `stop` before it. `clock` as that of `AnswerStore`."""

    def __init__(
        self,
        link: RedisLink,
        background: Background | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.replica = secrets.token_hex(6)
        self._link = link
        self._clock = clock
        self._led: dict[Identity, _Led] = {}
        self._tails: dict[Identity, _Tail] = {}
        self._woken = asyncio.Event()
        self._background = background or Background()
        self._tasks: list[BackgroundTask] = []
        self._releases = self._background.jobs("lease-release")
        self._publishers = self._background.jobs("flight-publisher")

    async def start(self) -> None:
        self._link.subscribe(replica_channel(self.replica), self._on_message)
        self._tasks = [
            self._background.start("flight-reader", self._keep_reading),
            self._background.start("lease-renewer", self._keep_renewing),
        ]

    async def stop(self) -> None:
        tasks = [task.stop() for task in self._tasks]
        await asyncio.gather(*tasks, self._releases.stop(), self._publishers.stop())

    async def claim(self, identity: Identity, flight: Flight, *, seen: int, background: bool) -> Claim:
        """Take the lease or learn who has it. RedisUnavailable where Redis is away."""
        key, version = identity.key, identity.version
        keys = [lease_key(key, version), epoch_key(key), entry_key(key, version), cooldown_key(key)]
        mine = f"{self.replica}:{secrets.token_hex(4)}"
        if flight.asker is not None:
            mine += f":{flight.asker.request_id}:{flight.asker.trace_id}"
        arguments: list[Any] = [
            mine,
            int(LEASE * 1000),
            born_digits(seen),
            int(background),
            HEADER,
            BORN_AT,
            BORN_AT + BORN_DIGITS - 1,
            born_digits(int((self._clock() + TOLERANCE) * 1e6)),
        ]

        def ask(pipeline: Pipeline) -> None:
            pipeline.eval(_CLAIM, 4, *keys, *arguments)

        try:
            try:
                outcome, token = await self._link.run("claim", ask)
            except RedisUnavailable:
                # Where Redis is there, only the answer was lost. The script knows a claim that it has granted already;
                # not to ask again would mean a second provider call.
                if not self._link.available:
                    raise
                outcome, token = await self._link.run("claim", ask)
        except (RedisUnavailable, asyncio.CancelledError):
            self._give_up(identity, mine)  # the lease may be ours all the same: only the answer did not come
            raise
        claim = _claim_of(identity, outcome, token.decode())
        if claim.outcome == "lead":
            replaced = self._led.get(identity)
            self._led[identity] = _Led(flight, claim)
            if replaced is not None:  # its lease was lost
                _dismiss_followers(replaced)
        return claim

    def _give_up(self, identity: Identity, mine: str) -> None:
        """Have no lease that ends with `mine` stand in anybody's way; tried for as long as one would live."""
        self._releases.start(self._keep_giving_up(lease_key(identity.key, identity.version), mine))

    async def _keep_giving_up(self, lease: str, mine: str) -> None:
        until = time.monotonic() + LEASE
        while time.monotonic() < until:
            # A script that is still under way must not take the lease after we gave it up.
            await asyncio.sleep(READ_INTERVAL)
            with contextlib.suppress(RedisUnavailable):
                await self._link.run("release", lambda client: client.eval(_RELEASE_MINE, 1, lease, mine))
                return

    async def release(self, claim: Claim) -> None:
        """The flight has ended: let followers read the end, then give the lease back."""
        led = self._led.get(claim.identity)
        if led is not None and led.claim is claim:  # else the lease was lost, and taken here again
            led.ending = True
            if led.publisher is not None:
                if not led.flight.ended:  # cancelled: no more frames will come, and there is no end to append
                    led.publisher.cancel()
                await asyncio.wait([led.publisher])
            if self._led.get(claim.identity) is led:  # the publisher gives up a lease that is lost
                del self._led[claim.identity]
        with contextlib.suppress(RedisUnavailable):
            await self._link.run("release", lambda client: client.eval(_RELEASE, 1, claim.lease, claim.token))

    async def cool_down(self, identity: Identity, seconds: float) -> None:
        with contextlib.suppress(RedisUnavailable):
            await self._link.run(
                "cooldown",
                lambda client: client.set(cooldown_key(identity.key), b"", px=max(1, int(seconds * 1000))),
            )

    async def tail(self, flight: Flight, claim: Claim) -> Tailed:
        """Give `flight` the leader's frames until its end, or until the leader is lost."""
        tail = _Tail(flight, claim)
        self._tails[claim.identity] = tail
        self._woken.set()
        try:
            return await tail.outcome
        finally:
            if self._tails.get(claim.identity) is tail:
                del self._tails[claim.identity]
            if tail.outcome.cancelled():  # with the flight: nobody here follows any more
                await self._send(claim.leader, "leave", claim.identity)

    async def _keep_reading(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_INTERVAL if self._tails else None):
                    await self._woken.wait()
            self._woken.clear()
            tails = list(self._tails.values())
            if tails:
                await self._read(tails)

    async def _read(self, tails: list[_Tail]) -> None:
        """One round: heartbeats where due, then new entries and the lease of each followed stream."""

        def fill(pipeline: Pipeline) -> None:
            for tail in tails:
                if time.monotonic() - tail.published > HEARTBEAT:
                    tail.published = time.monotonic()
                    leader = replica_channel(tail.claim.leader)
                    message = self._message("follow", tail.claim.identity)
                    pipeline.eval(_PUBLISH, 1, tail.claim.lease, leader, message)
            for tail in tails:
                pipeline.getrange(tail.claim.lease, 0, _MOST_TOKEN)
                pipeline.xrange(tail.claim.stream, min=tail.last, count=_PAGE)

        try:
            answers = (await self._link.pipeline("tail", fill))[-2 * len(tails) :]
        except RedisUndecodable:
            if len(tails) == 1:
                tails[0].finish(Tailed.LOST)
            else:  # one of them: the others have nothing to do with it
                for tail in tails:
                    await self._read([tail])
            return
        except RedisUnavailable:
            for tail in tails:
                if not self._link.available or time.monotonic() - tail.read > LEASE:
                    tail.finish(Tailed.LOST)
            return
        for tail, lease, entries in zip(tails, answers[::2], answers[1::2], strict=True):
            tail.read = time.monotonic()
            self._take(tail, entries)
            if len(entries) == _PAGE:
                self._woken.set()
            # The lease was read before the stream: if it was gone by then, nothing more will come.
            elif lease != tail.claim.token.encode():
                tail.finish(Tailed.LOST)

    def _take(self, tail: _Tail, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        """A leader whose entries we cannot read is lost to us."""
        try:
            for identifier, fields in entries:
                tail.last = f"({identifier.decode()}"
                tail.take(fields)
        except Undecodable as error:
            self._link.undecodable("flight", error)
            tail.finish(Tailed.LOST)

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            led = list(self._led.values())
            for one in led:
                self._forget_silent(one)
            # The items of a few large batches of texts are thousands of flights: more than can be renewed in one go.
            for start in range(0, len(led), _RENEWED):
                with contextlib.suppress(RedisUnavailable):
                    some = led[start : start + _RENEWED]
                    await self._link.pipeline("renew", functools.partial(_renew, some))

    @staticmethod
    def _forget_silent(led: _Led) -> None:
        silent = [name for name, heard in led.heard.items() if time.monotonic() - heard > FOLLOWER_TIMEOUT]
        for name in silent:
            del led.heard[name]
            led.flight.leave()

    async def _on_message(self, data: bytes) -> None:
        message = decode(_message_decoder, data, most=_MOST_MESSAGE)
        led = self._led.get(message.identity)
        if message.kind == "wake":
            self._woken.set()
        elif led is None:  # it has ended meanwhile: let the follower see for itself
            await self._send(message.sender, "wake", message.identity)
        elif message.kind == "follow":
            self._followed(led, replica_channel(message.sender))
        elif led.heard.pop(replica_channel(message.sender), None) is not None:
            led.flight.leave()

    def _followed(self, led: _Led, follower: str) -> None:
        if follower not in led.heard:
            if len(led.heard) >= _MOST_REPLICAS:
                return
            led.flight.followers += 1
        led.heard[follower] = time.monotonic()
        if led.publisher is None:
            led.publisher = self._publishers.start(self._publish(led))
            led.publisher.add_done_callback(lambda publisher: self._published(led, publisher))

    async def _publish(self, led: _Led) -> None:
        """Append what has arrived, again and again, until the end is appended or the lease is lost.

        Where an append fails nobody knows whether it was written, so it cannot be tried again: the lease is
        given up, and followers see at once that they need another leader.
        """
        flight, sent = led.flight, 0
        while True:
            frames = flight.frames[sent:]
            if frames:
                if not await self._append(led, b"frames", msgspec.msgpack.encode(frames)):
                    self._abdicate(led)
                    return
                sent += len(frames)
            elif flight.ended:
                error = (
                    {**to_wire(flight.error), "origin": flight.origin} if flight.error is not None else None
                )
                await self._append(led, b"end", msgspec.msgpack.encode(error) if error is not None else b"")
                return
            else:
                await flight.changed()

    def _published(self, led: _Led, publisher: asyncio.Task[None]) -> None:
        """A publisher that failed appends nothing more: its followers need another leader."""
        if not led.ending and (publisher.cancelled() or publisher.exception() is not None):
            self._abdicate(led)

    def _abdicate(self, led: _Led) -> None:
        if self._led.get(led.claim.identity) is led:
            del self._led[led.claim.identity]
        self._give_up(led.claim.identity, led.claim.token)
        _dismiss_followers(led)

    async def _append(self, led: _Led, field: bytes, value: bytes) -> bool:
        """Whether it was written; not so where the lease is lost, or Redis is."""
        claim = led.claim
        arguments: list[Any] = [
            claim.token,
            int(STREAM_LIFE * 1000),
            field,
            value,
            self._message("wake", claim.identity),
        ]
        try:
            written = await self._link.run(
                "append",
                lambda client: client.eval(_APPEND, 2, claim.lease, claim.stream, *arguments, *led.heard),
            )
        except RedisUnavailable:
            return False
        return bool(written)

    async def _send(self, replica: str, kind: Literal["follow", "leave", "wake"], identity: Identity) -> None:
        with contextlib.suppress(RedisUnavailable):
            message = self._message(kind, identity)
            await self._link.run("publish", lambda client: client.publish(replica_channel(replica), message))

    def _message(self, kind: Literal["follow", "leave", "wake"], identity: Identity) -> bytes:
        return msgspec.msgpack.encode(Message(kind, identity, self.replica))


def _claim_of(identity: Identity, outcome: bytes, token: str) -> Claim:
    """`token` is `epoch:replica:claim:request:trace`, without the last two where nobody's request is known."""
    key, version = identity.key, identity.version
    parts = token.split(":")
    return Claim(
        identity,
        outcome.decode(),  # type: ignore[arg-type]  # of the script's four
        token,
        lease_key(key, version),
        flight_stream(key, version, parts[0]),
        parts[1] if len(parts) > 1 else "",
        Asker(parts[3], parts[4]) if len(parts) == 5 else None,
    )


def _renew(led: list[_Led], pipeline: Pipeline) -> None:
    for one in led:
        pipeline.eval(_RENEW, 1, one.claim.lease, one.claim.token, int(LEASE * 1000))


def _dismiss_followers(led: _Led) -> None:
    """Replicas that followed a flight whose lease is lost follow another now."""
    for _ in range(len(led.heard)):
        led.flight.leave()
    led.heard.clear()
