"""`POST /v1/completions`: OpenAI's older protocol, which continues a text, from providers that have it.

It goes the way of a chat whose one message has the text, or each of several texts as a part, but is a question of its
own: its key says so, and it is asked of a provider to the letter (`providers.openai_completions`). Nothing may stand
before the text, so personalities are for chats only.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dub5.admission.limits import Grant
from dub5.api.chat import ChatWriter, QuestionRoute
from dub5.api.http import key_of
from dub5.chat.answer import Writer
from dub5.chat.embeddings_request import require_one_kind, tokens_of
from dub5.chat.question import Question
from dub5.chat.request import ChatRequest, StreamOptions, invalid
from dub5.errors import Dub5Error, ErrorResponse, InvalidRequest, render
from dub5.frames import Frame
from dub5.providers.chunks import split, text_of, tokens
from dub5.providers.openai_completions import MOST_PROMPTS, PROTOCOL, USUAL_LIMIT, prompts
from dub5.providers.protocol import Json, Payload, decode
from dub5.settings.model import MOST_TOKENS
from dub5.telemetry.record import RequestRecord

_OF_CHATS = ("messages", "max_completion_tokens")

_Token = Annotated[int, Meta(ge=0, le=2**31)]


class CompletionRequest(msgspec.Struct):
    """The fields whose type and range we vouch for."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    prompt: (
        Annotated[str, Meta(description="One text.")]
        | Annotated[
            list[str | _Token | Annotated[list[_Token], Meta(min_length=1)]],
            Meta(
                min_length=1,
                description="Texts, up to 2048; or the tokens of one text; or lists of tokens, one for each text.",
            ),
        ]
    )
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=MOST_TOKENS)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    user: str | None = None


class Completions:
    """The Spelling."""

    name = PROTOCOL
    path = "/v1/completions"
    subject = "Text completions"

    def authorization(self, headers: dict[str, str]) -> str:
        return key_of(headers)

    def question(self, body: Json, headers: dict[str, str]) -> Json:  # noqa: ARG002  # all of it is in the body
        for name in _OF_CHATS:
            if body.get(name) is not None:
                raise InvalidRequest(f"`{name}` is for POST /v1/chat/completions.", param=name)
        try:
            known = msgspec.convert(body, CompletionRequest)
        except msgspec.ValidationError as error:
            raise invalid(str(error)) from None
        if isinstance(known.prompt, list):
            require_one_kind("prompt", known.prompt)
            if not isinstance(known.prompt[0], int) and len(known.prompt) > MOST_PROMPTS:
                raise InvalidRequest(f"`prompt` has more than {MOST_PROMPTS} texts.", param="prompt")
        parts = [
            {"type": "text", "text": each} if isinstance(each, str) else {"type": "tokens", "tokens": each}
            for each in prompts(body)
        ]
        asked = {name: value for name, value in body.items() if name != "prompt"}
        return {**asked, "messages": [{"role": "user", "content": parts}]}

    def writer(self, body: Json, request: ChatRequest, record: RequestRecord) -> Writer:  # noqa: ARG002  # in `request`
        return CompletionWriter(request.include_usage)

    def error(self, error: Dub5Error) -> ErrorResponse:
        return render(error)


class CompletionWriter(ChatWriter):
    """See `Writer`. A stream ends as a chat's does."""

    def whole(self, completion: bytes) -> bytes:
        return Payload.of(_text(decode(completion), "message")).raw

    def replay(self, completion: bytes) -> bytes:
        return self._replayed(completion) + self.end()

    def events(self, frames: list[Frame]) -> bytes:
        events: list[bytes] = []
        for frame in frames:
            if frame.kind == "whole":
                events.append(self._replayed(frame.raw))
            elif frame.kind == "chunk" or self.include_usage:
                events.append(_event(decode(frame.raw)))
        return b"".join(events)

    def _replayed(self, completion: bytes) -> bytes:
        """In parts about as long as tokens, as its provider would have sent it: there is none that only opens."""
        events: list[bytes] = []
        opening: Json = {}
        answer = decode(completion)
        texts = len(answer.get("choices") or ())
        for chunk in split(answer, include_usage=self.include_usage, whole_texts=True):
            choices = chunk["choices"]
            if choices and "role" in choices[0]["delta"]:
                opening = {**opening, **chunk}
                continue
            name, text = text_of(chunk)
            for part in tokens(text, texts) or [""]:
                delta = {name: part} if name else {}
                said = [{**choice, "delta": delta} for choice in choices]
                events.append(_event({**opening, **chunk, "choices": said}))
                opening = {}
        return b"".join(events)


def _event(chunk: Json) -> bytes:
    return b"data: %b\n\n" % Payload.of(_text(chunk, "delta")).raw


def _text(data: Json, inside: str) -> Json:
    """A `chat.completion` or its chunk as a `text_completion`."""
    return {
        **data,
        "object": "text_completion",
        "choices": [_choice(each, inside) for each in data.get("choices") or ()],
    }


def _choice(choice: Json, inside: str) -> Json:
    said = (choice.get(inside) or {}).get("content")
    kept = {name: value for name, value in choice.items() if name != inside}
    named: Json = {"text": said if isinstance(said, str) else "", "logprobs": None, "finish_reason": None}
    return {**named, **kept}


class CompletionsRoute(QuestionRoute):
    """A QuestionRoute for models only."""

    personalities = False

    async def _granted(self, question: Question) -> Grant | None:
        reserve = 0 if self._pipeline.remembers(question) else _most_tokens(question)
        return await self._limiter.acquire(question.record.tenant or "", reserve=reserve)


def _most_tokens(question: Question) -> int:
    """About how many it may take: each prompt, and the longest texts that may follow."""
    assert question.request.spelled is not None  # noqa: S101  # it was asked in this protocol
    asked = question.request.spelled[1]
    given, limit = prompts(asked), asked.get("max_tokens")
    most = (USUAL_LIMIT if limit is None else limit) * max(asked.get("n") or 1, asked.get("best_of") or 1)
    return sum(map(tokens_of, given)) + most * len(given)
