"""Which replica asks the provider, and how the others get the answer as it arrives.

1. *Claim.* One script says who leads: whoever finds no lease takes it, with a new epoch; the others learn the
   leader's name. It also finds an answer that was stored since the caller's look-up, so none is asked for twice.
2. *Follow.* A follower says so to the leader's replica, over pub/sub, and again each second as a heartbeat.
   Only then does the leader publish its frames, from the first one on: an answer that nobody elsewhere waits
   for costs Redis nothing.
3. *Publish.* Frames are appended to the stream of this epoch by a script that checks the lease first (fencing):
   a leader that was paused and lost its lease cannot write, and its successor has another stream. Frames that
   arrive while an append is under way go together in the next one. Each says how many frames are before it: Redis
   may evict what nobody has read yet, or lose it in a failover.
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
import itertools
import json
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dub5.cache.flights import Asker, Claim, Flight, Tailed
from dub5.cache.store import (
    BORN,
    BORN_AT,
    BORN_DIGITS,
    HEADER,
    TOLERANCE,
    VECTOR_KEY,
    Identity,
    check_answer,
)
from dub5.contract import (
    COOLDOWN_KEY,
    ENTRY_KEY,
    EPOCH_KEY,
    FLIGHT_STREAM,
    LEASE_KEY,
    REPLICA_CHANNEL,
    Undecodable,
    decode,
)
from dub5.errors import CallerError, from_wire, to_wire
from dub5.frames import Frame
from dub5.redis.link import RedisLink, RedisUnavailable, RedisUndecodable, Words
from dub5.telemetry.background import Background, BackgroundTask

LEASE = 4.0
HEARTBEAT = 1.0
FOLLOWER_TIMEOUT = 3.5
READ_INTERVAL = 0.25
RENEWED = 256
"""Leases that are renewed at a time."""
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
_MOST_REPLICAS = 1000
"""Replicas that may follow one flight."""

# A lease that is no string of the right form, or that does not expire soon, is nobody's; nor is an epoch that nobody
# counted to.
_CLAIM = """
local entry = redis.pcall('GETRANGE', KEYS[3], 0, BORN_END)
if type(entry) == 'string' and string.sub(entry, 1, BORN_AT) == 'HEADER' then
  local born = string.sub(entry, BORN_AT + 1)
  if born > ARGV[2] and born <= ARGV[4] then return {'stored', ''} end
end
local lease = redis.pcall('GETRANGE', KEYS[1], 0, MOST)
if type(lease) == 'string' and #lease <= MOST and string.find(lease, '^%d+:[%w_:.-]+$') then
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 and left <= 15 * LEASE then
    return {string.sub(lease, -#ARGV[1]) == ARGV[1] and 'lead' or 'follow', lease}
  end
end
if ARGV[3] == '1' and redis.call('EXISTS', KEYS[4]) == 1 then return {'cooling', ''} end
local epoch = redis.pcall('INCR', KEYS[2])
if type(epoch) ~= 'number' or epoch < 1 or epoch > 1e13 then
  epoch = redis.call('TIME')[1] * 1000
  redis.call('SET', KEYS[2], string.format('%.0f', epoch))
end
local token = string.format('%.0f', epoch) .. ':' .. ARGV[1]
redis.call('EXPIRE', KEYS[2], 86400)
redis.call('SET', KEYS[1], token, 'PX', LEASE)
return {'lead', token}
"""
for _name, _value in {
    "MOST": _MOST_TOKEN,
    "LEASE": int(LEASE * 1000),
    "HEADER": "".join(f"\\{byte}" for byte in HEADER),
    "BORN_AT": BORN_AT,
    "BORN_END": BORN_AT + BORN_DIGITS - 1,
}.items():  # each word of a command costs
    _CLAIM = _CLAIM.replace(_name, str(_value))
_RENEW = "if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RELEASE_MINE = """
local lease = redis.pcall('GET', KEYS[1])
if type(lease) == 'string' and string.sub(lease, -#ARGV[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
_APPEND = """
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('XADD', KEYS[2], '*', ARGV[3], ARGV[4], 'at', ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
for index = 7, #ARGV do redis.call('PUBLISH', ARGV[index], ARGV[6]) end
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


class _Led(msgspec.Struct, eq=False):
    """A flight that this replica leads: the channels of replicas that follow, each with when it was last heard, and the
    publisher."""

    flight: Flight
    claim: Claim
    heard: dict[str, float] = {}
    publisher: asyncio.Task[None] | None = None
    ending: bool = False


class _Tail(msgspec.Struct, eq=False):
    """A flight that another replica leads: how far we have read, when (monotonic), and how it came out. `published` is
    when the leader was last sent a heartbeat."""

    flight: Flight
    claim: Claim
    outcome: asyncio.Future[Tailed]
    read: float
    last: str = "-"
    published: float = 0.0

    def finish(self, outcome: Tailed) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def take(self, fields: dict[bytes, bytes]) -> None:
        """One entry of the stream: frames, or the end. Undecodable where it is neither."""
        if self.outcome.done():
            return
        flight, key = self.flight, self.claim.identity.key
        here = b"%d" % len(flight.frames)
        if fields.get(b"at", here) != here:  # older releases do not say it
            self.finish(Tailed.LOST)
            return
        if b"frames" in fields:
            frames = decode(_frames_decoder, fields[b"frames"], most=_MOST_FRAMES)
            for frame in frames:
                # A frame of a completion is a JSON object on one line, and a whole answer one to its key's question.
                if not key.startswith(VECTOR_KEY) and (b"\n" in frame.raw or b"\r" in frame.raw):
                    raise Undecodable("a frame of several lines")
                if frame.kind == "whole":
                    check_answer(key, frame.raw)
                    continue
                try:
                    chunk = msgspec.json.decode(frame.raw)
                except (ValueError, RecursionError):
                    try:  # a chunk may have half of a character as an escape, which only Python reads
                        chunk = json.loads(frame.raw)
                    except (ValueError, RecursionError):
                        chunk = None
                if not isinstance(chunk, dict):
                    raise Undecodable("a chunk that is no object")
            if len(flight.frames) + len(frames) > 1 and any(frame.kind == "whole" for frame in frames):
                raise Undecodable("a whole answer among others")
            flight.add(frames)
        elif b"end" in fields:
            end, error = None, None
            if fields[b"end"]:
                end = decode(_end_decoder, fields[b"end"], most=_MOST_END)
                error = from_wire(end.wire())
            if end is not None and isinstance(error, CallerError) and end.origin != flight.origin:
                self.finish(Tailed.REFUSED)
            else:
                flight.end(error)
                self.finish(Tailed.ENDED)
        else:
            raise Undecodable("neither frames nor an end")


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
        self._numbers = itertools.count()
        self._led: dict[Identity, _Led] = {}
        self._tails: dict[Identity, _Tail] = {}
        self._woken = asyncio.Event()
        self._background = background or Background()
        self._tasks: list[BackgroundTask] = []
        self._releases = self._background.jobs("lease-release")
        self._publishers = self._background.jobs("flight-publisher")

    async def start(self) -> None:
        self._link.subscribe(REPLICA_CHANNEL % self.replica, self._on_message)
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
        keys = [LEASE_KEY % (key, version), EPOCH_KEY % key, ENTRY_KEY % (key, version), COOLDOWN_KEY % key]
        mine = f"{self.replica}:{next(self._numbers)}"
        if flight.asker is not None:
            mine += f":{flight.asker.request_id}:{flight.asker.trace_id}"
        asked = (
            *("EVAL", _CLAIM, 4, *keys),
            *(mine, BORN % seen, int(background), BORN % int((self._clock() + TOLERANCE) * 1e6)),
        )
        try:
            try:
                [(outcome, token)] = await self._link.pipeline("claim", [asked])
            except RedisUnavailable:
                # Where Redis is there, only the answer was lost. The script knows a claim that it has granted already;
                # not to ask again would mean a second provider call.
                if not self._link.available:
                    raise
                [(outcome, token)] = await self._link.pipeline("claim", [asked])
        except (RedisUnavailable, asyncio.CancelledError):
            self._give_up(identity, mine)  # the lease may be ours all the same: only the answer did not come
            raise
        # `epoch:replica:claim:request:trace`, without the last two where nobody's request is known.
        parts = token.decode().split(":")
        claim = Claim(
            identity,
            outcome.decode(),
            token.decode(),
            keys[0],
            FLIGHT_STREAM % (key, version, parts[0]),
            parts[1] if len(parts) > 1 else "",
            Asker(parts[3], parts[4]) if len(parts) == 5 else None,
        )
        if claim.outcome == "lead":
            replaced = self._led.get(identity)
            self._led[identity] = _Led(flight, claim)
            if replaced is not None:  # its lease was lost
                _dismiss_followers(replaced)
        return claim

    def _give_up(self, identity: Identity, mine: str) -> None:
        """Have no lease that ends with `mine` stand in anybody's way; tried for as long as one would live."""
        self._releases.start(self._keep_giving_up(LEASE_KEY % (identity.key, identity.version), mine))

    async def _keep_giving_up(self, lease: str, mine: str) -> None:
        until = time.monotonic() + LEASE
        while time.monotonic() < until:
            # A script that is still under way must not take the lease after we gave it up.
            await asyncio.sleep(READ_INTERVAL)
            with contextlib.suppress(RedisUnavailable):
                await self._link.run("release", "EVAL", _RELEASE_MINE, 1, lease, mine)
                return

    async def release(self, claim: Claim, put: Words = ()) -> Any:
        """The flight has ended: let followers read the end, have its answer kept by `put`, where there is one, and give
        the lease back. Gives what Redis said to `put`, None where it did not."""
        led = self._led.get(claim.identity)
        if led is not None and led.claim is claim:  # else the lease was lost, and taken here again
            led.ending = True
            if led.publisher is not None:
                if not led.flight.ended:  # cancelled: no more frames will come, and there is no end to append
                    led.publisher.cancel()
                await asyncio.wait([led.publisher])
            if self._led.get(claim.identity) is led:  # the publisher gives up a lease that is lost
                del self._led[claim.identity]
        give_back: Words = ("EVAL", _RELEASE, 1, claim.lease, claim.token)
        try:
            if not put:
                await self._link.pipeline("release", [give_back])
                return None
            kept, _ = await self._link.pipeline("set", [put, give_back])
        except RedisUnavailable:
            if self._link.available:  # it stands in nobody's way for that
                self._give_up(claim.identity, claim.token)
            return None
        return kept

    async def cool_down(self, identity: Identity, seconds: float) -> None:
        with contextlib.suppress(RedisUnavailable):
            lasting = max(1, int(seconds * 1000))
            await self._link.run("cooldown", "SET", COOLDOWN_KEY % identity.key, b"", "PX", lasting)

    async def tail(self, flight: Flight, claim: Claim) -> Tailed:
        """Give `flight` the leader's frames until its end, or until the leader is lost."""
        tail = _Tail(flight, claim, asyncio.get_running_loop().create_future(), time.monotonic())
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
        commands: list[Words] = []
        for tail in tails:
            if time.monotonic() - tail.published > HEARTBEAT:
                tail.published = time.monotonic()
                leader = REPLICA_CHANNEL % tail.claim.leader
                follow = msgspec.msgpack.encode(Message("follow", tail.claim.identity, self.replica))
                commands.append(("EVAL", _PUBLISH, 1, tail.claim.lease, leader, follow))
        for tail in tails:
            commands.append(("GETRANGE", tail.claim.lease, 0, _MOST_TOKEN))
            commands.append(("XRANGE", tail.claim.stream, tail.last, "+", "COUNT", _PAGE))
        try:
            answers = (await self._link.pipeline("tail", commands))[-2 * len(tails) :]
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
            try:
                for identifier, fields in entries:
                    tail.last = f"({identifier.decode()}"
                    tail.take(fields)
            except Undecodable as error:  # a leader whose entries we cannot read is lost to us
                self._link.undecodable("flight", error)
                tail.finish(Tailed.LOST)
            if len(entries) == _PAGE:
                self._woken.set()
            # The lease was read before the stream: if it was gone by then, nothing more will come.
            elif lease != tail.claim.token.encode():
                tail.finish(Tailed.LOST)

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            renewals: list[Words] = []
            for led in list(self._led.values()):
                silent = [
                    name for name, heard in led.heard.items() if time.monotonic() - heard > FOLLOWER_TIMEOUT
                ]
                for name in silent:
                    del led.heard[name]
                    led.flight.leave()
                renewals.append(("EVAL", _RENEW, 1, led.claim.lease, led.claim.token, int(LEASE * 1000)))
            # The items of a few large batches of texts are thousands of flights: more than can be renewed in one go.
            for start in range(0, len(renewals), RENEWED):
                with contextlib.suppress(RedisUnavailable):
                    await self._link.pipeline("renew", renewals[start : start + RENEWED])

    async def _on_message(self, data: bytes) -> None:
        message = decode(_message_decoder, data, most=_MOST_MESSAGE)
        led, sender = self._led.get(message.identity), REPLICA_CHANNEL % message.sender
        if message.kind == "wake":
            self._woken.set()
        elif led is None:  # it has ended meanwhile: let the follower see for itself
            await self._send(message.sender, "wake", message.identity)
        elif message.kind == "leave":
            if led.heard.pop(sender, None) is not None:
                led.flight.leave()
        elif sender in led.heard or len(led.heard) < _MOST_REPLICAS:
            if sender not in led.heard:
                led.flight.followers += 1
            led.heard[sender] = time.monotonic()
            if led.publisher is None:
                led.publisher = self._publishers.start(self._publish(led))

    async def _publish(self, led: _Led) -> None:
        """Append what has arrived, again and again, until the end is appended or the lease is lost.

        Where an append fails nobody knows whether it was written, so it cannot be tried again: the lease is
        given up, and followers see at once that they need another leader.
        """
        flight, sent = led.flight, 0
        try:
            while not (flight.ended and sent == len(flight.frames)):
                frames = flight.frames[sent:]
                if not frames:
                    await flight.changed()
                elif await self._append(led, b"frames", msgspec.msgpack.encode(frames), sent):
                    sent += len(frames)
                else:
                    self._abdicate(led)
                    return
            end = b""
            if flight.error is not None:
                end = msgspec.msgpack.encode({**to_wire(flight.error), "origin": flight.origin})
            await self._append(led, b"end", end, sent)
        except BaseException:
            if not led.ending:  # one that failed appends nothing more: its followers need another leader
                self._abdicate(led)
            raise

    async def _append(self, led: _Led, field: bytes, value: bytes, at: int) -> bool:
        """Whether it was written behind so many frames; not so where the lease is lost, or Redis is."""
        claim = led.claim
        wake = msgspec.msgpack.encode(Message("wake", claim.identity, self.replica))
        append = ("EVAL", _APPEND, 2, claim.lease, claim.stream, claim.token, int(STREAM_LIFE * 1000))
        try:
            [written] = await self._link.pipeline("append", [(*append, field, value, at, wake, *led.heard)])
        except RedisUnavailable:
            return False
        return bool(written)

    def _abdicate(self, led: _Led) -> None:
        if self._led.get(led.claim.identity) is led:
            del self._led[led.claim.identity]
        self._give_up(led.claim.identity, led.claim.token)
        _dismiss_followers(led)

    async def _send(self, replica: str, kind: Literal["follow", "leave", "wake"], identity: Identity) -> None:
        message = msgspec.msgpack.encode(Message(kind, identity, self.replica))
        with contextlib.suppress(RedisUnavailable):
            await self._link.run("publish", "PUBLISH", REPLICA_CHANNEL % replica, message)


def _dismiss_followers(led: _Led) -> None:
    """Replicas that followed a flight whose lease is lost follow another now."""
    for _ in range(len(led.heard)):
        led.flight.leave()
    led.heard.clear()
