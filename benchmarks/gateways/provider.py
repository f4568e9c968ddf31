"""A stand-in for an OpenAI-compatible provider that costs next to nothing: `python -m benchmarks.gateways.provider`.

It prints its URL and answers each POST by the path alone, so that one process serves every row:

    {url}/v1/chat/completions              the same whole completion of 1 KB, or a stream of 100 chunks without pauses
    {url}/v1/messages                      the same as a message, whole
    {url}/paced/5/100/v1/chat/completions  streams of 100 chunks, 5 ms between two

All is encoded beforehand. Into each chunk goes the moment at which it is written, by the clock that all processes of
this machine share (`time.monotonic`): a client sees by it how much later the chunk came.

Streams are written by a wheel of one slot per millisecond, each stream in the slot of its arrival: real streams do
not move in step either, and 2,000 timers would cost more than 2,000 writes. The chunks of one slot are the same bytes.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
import uvloop

_MODEL = {"id": "chatcmpl-benchmark", "created": 1_700_000_000, "model": "benchmark"}
_USAGE = {"prompt_tokens": 20, "completion_tokens": 150, "total_tokens": 170}
_SIZE = 1024
"""Bytes of the whole completion."""
_SLOT = 0.001


def _completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return msgspec.json.encode({**_MODEL, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def _message(text: str) -> bytes:
    blocks = [{"type": "text", "text": text}]
    usage = {"input_tokens": 20, "output_tokens": 150}
    about = {"id": "msg_benchmark", "type": "message", "role": "assistant", "model": "benchmark"}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    return msgspec.json.encode({**about, "content": blocks, **ended, "usage": usage})


def _text() -> str:
    """As long as makes the completion `_SIZE` bytes; no run of it repeats soon."""
    words = " ".join(f"word{number}" for number in range(200))
    return words[: _SIZE - len(_completion(""))]


TEXT = _text()
"""What a whole answer says."""
COMPLETION = _completion(TEXT)


def _whole(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


_CHAT, _MESSAGE = _whole(COMPLETION), _whole(_message(TEXT))
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_STAMP = b"%017.6f"


def _framed(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return msgspec.json.encode({**_MODEL, "object": "chat.completion.chunk", "choices": [choice]})


# A chunk is what stands before the stamp and what stands after it.
_BEFORE, _AFTER = _framed(_chunk({"content": f"@{'0' * 17}@"})).split(b"0" * 17)
_FINISH = _framed(_chunk({}, "stop"))
_COUNTED = _framed(
    msgspec.json.encode({**_MODEL, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
)
_END = _framed(b"[DONE]") + b"0\r\n\r\n"


def _stamped() -> bytes:
    """A chunk that is written now."""
    return b"%b%b%b" % (_BEFORE, _STAMP % time.monotonic(), _AFTER)


class Wheel:
    """Writes the next chunk of each stream when it is due. `between` in milliseconds."""

    def __init__(self, between: int) -> None:
        self._slots: list[set[Exchange]] = [set() for _ in range(between)]
        self._at = 0
        self._due = time.monotonic()
        asyncio.get_running_loop().call_soon(self._turn)

    def add(self, exchange: Exchange) -> None:
        """Its next chunk is due one turn of the wheel from now."""
        self._slots[self._at % len(self._slots)].add(exchange)

    def _turn(self) -> None:
        now = time.monotonic()
        while self._due <= now:
            slot = self._slots[self._at % len(self._slots)]
            self._at += 1
            self._due += _SLOT
            chunk = _stamped() if slot else b""
            slot.difference_update([each for each in slot if not each.write_next(chunk)])
        asyncio.get_running_loop().call_later(max(0.0, self._due - time.monotonic()), self._turn)


class Exchange(asyncio.Protocol):
    """One connection: one request after the other."""

    def __init__(self, wheels: dict[int, Wheel]) -> None:
        self._wheels = wheels
        self._received = b""
        self._left = 0
        self._usage = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r", 1)[0]) if at >= 0 else 0
        if len(self._received) < head_end + 4 + length:
            return
        body, self._received = self._received[head_end + 4 :], b""
        if b'"stream":true' in body or b'"stream": true' in body:
            self._stream(head.split(b" ", 2)[1], body)
        else:
            self._transport.write(_MESSAGE if b"/messages" in head[: head.find(b"\r")] else _CHAT)

    def _stream(self, path: bytes, body: bytes) -> None:
        parts = path.split(b"/")
        between, chunks = (int(parts[2]), int(parts[3])) if parts[1] == b"paced" else (0, 100)
        self._usage = b"include_usage" in body
        self._left = chunks
        self._transport.write(_STREAM_HEAD)
        if between:
            self.write_next(_stamped())
            if between not in self._wheels:
                self._wheels[between] = Wheel(between)
            self._wheels[between].add(self)
        else:
            while self.write_next(_stamped()):
                pass

    def write_next(self, chunk: bytes) -> bool:
        """The next one, or after the last what ends a stream; whether there are more to come."""
        if self._transport.is_closing():
            return False
        self._left -= 1
        if self._left > 0:
            self._transport.write(chunk)
            return True
        self._transport.write(_FINISH + (_COUNTED if self._usage else b"") + _END)
        return False


async def main() -> None:
    wheels: dict[int, Wheel] = {}
    server = await asyncio.get_running_loop().create_server(
        lambda: Exchange(wheels), "127.0.0.1", 0, backlog=4096
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
