"""`POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's Messages, a spelling of chat's question.

What a request means is in `messages_request`, what an answer is in `messages_answer`. A provider of Anthropic's own API
is asked to the letter what the caller asked (`providers.anthropic_native`).
"""

from __future__ import annotations

import msgspec
from litestar.types import Send

from dub5.admission.limits import Grant
from dub5.api.chat import QuestionRoute, in_time
from dub5.api.http import JSON, ClientWatch, key_of, rate_headers, send_whole, while_client_stays
from dub5.api.messages_answer import MessagesWriter
from dub5.api.messages_request import question
from dub5.chat.answer import Writer
from dub5.chat.question import Question
from dub5.chat.request import ChatRequest, prompt_tokens
from dub5.errors import Dub5Error, ErrorResponse, render_messages
from dub5.providers.anthropic import AnthropicProvider
from dub5.providers.anthropic_only import PROTOCOL
from dub5.providers.protocol import Json
from dub5.telemetry.record import Push, RequestRecord, Whole

_NAMES = {
    "stop": "stop_sequences",
    "user": "metadata.user_id",
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
"""Fields as chat names them, and as the request named them."""


class Messages:
    """The Spelling."""

    name = PROTOCOL
    path = "/v1/messages"
    subject = "Messages"

    def authorization(self, headers: dict[str, str]) -> str:
        return key_of(headers)

    def question(self, body: Json, headers: dict[str, str]) -> Json:
        return question(body, headers)

    def writer(self, body: Json, request: ChatRequest, record: RequestRecord) -> Writer:  # noqa: ARG002  # in `body`
        return MessagesWriter(record.request_id, frozenset(body.get("stop_sequences") or ()))

    def error(self, error: Dub5Error) -> ErrorResponse:
        return render_messages(error)


class TokenCounts(Messages):
    """The Spelling of a question of which only the tokens are wanted: it needs no limit, and is not streamed."""

    path = "/v1/messages/count_tokens"
    subject = "Counts of tokens"

    def question(self, body: Json, headers: dict[str, str]) -> Json:
        return {**question(body, headers, limited=False), "stream": False}


class MessagesRoute(QuestionRoute):
    """A QuestionRoute whose answers have the request's id where Anthropic's clients look for it."""

    id_header = b"request-id"

    def render(self, error: Dub5Error, record: RequestRecord) -> ErrorResponse:
        param = error.param or ""
        own = next(
            (name for name in _NAMES if param == name or param.startswith((f"{name}.", f"{name}["))), None
        )
        field = None if own is None else _NAMES[own] + param.removeprefix(own)
        return render_messages(error, record.request_id, field=field)


class TokenCountRoute(MessagesRoute):
    """Counted by the provider where the model's first route leads to Anthropic's API, and else estimated."""

    async def _granted(self, question: Question) -> Grant | None:
        return await self._limiter.acquire(question.record.tenant or "", reserve=0)

    async def _respond(
        self,
        question: Question,
        writer: Writer,  # noqa: ARG002  # there is no answer to write
        grant: Grant | None,
        end: float | None,  # noqa: ARG002  # the provider's own limits hold
        watch: ClientWatch,
        send: Send,
        push: Push | None,  # noqa: ARG002  # one body
        whole: Whole | None,
    ) -> None:
        async with while_client_stays(watch):
            body = await in_time(question.deadline, _counted(question))
        await send_whole(send, 200, [JSON, *rate_headers(grant)], msgspec.json.encode(body), whole)


async def _counted(question: Question) -> Json:
    """The body that says how many there are, and whether that is an estimate."""
    route = question.target.model.routes[0]
    call = question.call(question.record.trace.child())
    if isinstance(route.provider, AnthropicProvider):
        call = msgspec.structs.replace(call, model=route.upstream)
        return {"input_tokens": await route.provider.count_tokens(call)}
    return {"input_tokens": prompt_tokens(call.body), "estimated": True}
