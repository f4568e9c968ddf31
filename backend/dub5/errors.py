"""Every way in which a request can fail, as one tree.

The contract promises OpenAI's error shape everywhere but for callers of Anthropic's Messages, so that the official
clients raise their own exception classes. Each class here therefore knows its HTTP status, its `type` and its `code`.
`render` makes an HTTP response of any of them, `render_event` the last event of a stream, `render_messages` and
`render_messages_event` the same in Anthropic's shape; nothing else does, so that callers get the same wherever a
request fails. What a provider said may take the place of the class's words in one error: `as_said`.

    Dub5Error
    ├── ConfigError                     (never leaves the process: start-up and `dub5 config check`)
    ├── CallerError                     4xx: the request itself, or its sender
    │   ├── InvalidRequest              400  names the field in `param`
    │   │   └── Unsupported             400  this route cannot do it, another one might
    │   ├── InvalidKey                  401
    │   ├── Forbidden                   403
    │   │   └── ModelNotAllowed         403
    │   ├── ForeignOrigin               403  a web page that is not allowed, without a key
    │   ├── UnknownModel                404
    │   ├── UnknownPath                 404
    │   ├── UnknownResponse             404  never kept, or not any more
    │   │   └── UnknownPrevious         404  what a conversation is to go on from
    │   ├── WrongMethod                 405
    │   ├── RequestTimeout              408
    │   ├── RequestTooLarge             413
    │   ├── UnknownHost                 421
    │   └── HeadTooLarge                431
    ├── RateLimited                     429  the tenant's requests or tokens are used up
    ├── Overloaded                      503  no room, or draining
    ├── NotCached                       504  `only-if-cached` and there is nothing
    ├── PurgedHereOnly                  503  Redis is away: other replicas do not know of the purge yet
    ├── ResponsesAway                   503  Redis is away, where Responses are kept
    ├── ProviderError                   502  a provider failed
    │   └── ProviderTimeout             504
    ├── DeadlinePassed                  504  the caller's own deadline
    ├── FlightLost                      502  the replica that called the provider was lost in mid-answer
    └── InternalError                   500  a defect of ours
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self, TypeVar

import msgspec

_Raised = TypeVar("_Raised", bound=BaseException)

FailureScope = Literal["provider", "server", "model", "request"]
"""What a provider's failure is about: all of it (connection, DNS, TLS, credentials), what serves one of its models and
perhaps the others (5xx, time-outs), one model (429, a quota, an answer cut short), or one request or answer (403, 404,
409, 424, malformed): that says nothing about other calls."""


class Dub5Error(Exception):
    """Base of all: `message` is for people and never holds a key, a prompt or a traceback.

    `retry_after` is in seconds. `should_retry` is what the header `x-should-retry` says, which OpenAI's and Anthropic's
    SDKs obey: False where the same request cannot succeed later either, None where their own rules do.
    """

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    should_retry: bool | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def as_said(
        self,
        *,
        status: int | None = None,
        type: str | None = None,  # noqa: A002  # OpenAI's name
        code: str | None = None,
        should_retry: bool | None = None,
    ) -> Self:
        """This error, with what is given in place of the class's own."""
        given = {"status": status, "type": type, "code": code, "should_retry": should_retry}
        self.__dict__.update({name: value for name, value in given.items() if value is not None})
        return self

    def body(self) -> dict[str, Any]:
        """The OpenAI error object: `{"error": {message, type, param, code}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def event(self) -> dict[str, Any]:
        """The same for a stream whose head is sent, with `retry_after` in whole seconds where that is known."""
        body = self.body()
        if self.retry_after is not None:
            body["error"]["retry_after"] = whole_seconds(self.retry_after)
        return body


def whole_seconds(seconds: float) -> int:
    """For `Retry-After`: rounded up, and at least 1, so that a client that waits does not come too early."""
    return max(1, math.ceil(seconds))


def without_trace(error: _Raised) -> _Raised:
    """`error` without what it has come through, once that was logged or is of no interest.

    A traceback leads to the frames of a request, and these to all that it had: whatever of that keeps the error would
    keep all the rest, in a cycle, until the collector comes by.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


class ErrorResponse(NamedTuple):
    """An error as an HTTP response. `headers` have the body's type, and not its length."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def render(error: Dub5Error) -> ErrorResponse:
    """What a caller is sent whose request has failed before anything of an answer was sent."""
    headers = [(b"content-type", b"application/json")]
    wait = error.retry_after
    if wait is None and error.status == 429 and error.should_retry is not False:
        wait = 1  # a provider need not say when; each 429 of ours does
    if wait is not None:
        headers.append((b"retry-after", b"%d" % whole_seconds(wait)))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    # The rest of a body is not worth reading; and where one replica is full, another one may have room.
    if isinstance(error, (RequestTooLarge, Overloaded)):
        headers.append((b"connection", b"close"))
    if isinstance(error, WrongMethod):
        headers.append((b"allow", error.allow.encode()))
    if isinstance(error, RateLimited):
        headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return ErrorResponse(error.status, headers, msgspec.json.encode(error.body()))


def render_event(error: Dub5Error) -> bytes:
    """The last server-sent event of a stream that fails after its head was sent."""
    return b"data: %b\n\n" % msgspec.json.encode(error.event())


def render_messages(
    error: Dub5Error, request_id: str | None = None, *, field: str | None = None
) -> ErrorResponse:
    """As `render`, for callers of Messages: Anthropic's error object, by which its clients know what happened.

    `field` is the name that `error.param` has there, where it has another.
    """
    return render(error)._replace(body=msgspec.json.encode(_messages_body(error, request_id, field)))


def render_messages_event(error: Dub5Error, request_id: str) -> bytes:
    """As `render_event`, for callers of Messages."""
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode(_messages_body(error, request_id))


_MESSAGES_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""https://platform.claude.com/docs/en/api/errors; of other statuses `invalid_request_error` and `api_error`."""


def _messages_body(error: Dub5Error, request_id: str | None, field: str | None = None) -> dict[str, Any]:
    """`details.error_code` is the code that other protocols have; a field is named by the message alone."""
    usual = "api_error" if error.status >= 500 else "invalid_request_error"
    message, named = error.message, field or error.param
    if field and error.param:
        message = message.replace(f"`{error.param}`", f"`{field}`")
    if named and named not in message:
        message = f"{named}: {message}"
    return {
        "type": "error",
        "error": {
            "type": _MESSAGES_TYPES.get(error.status, usual),
            "message": message,
            "details": {"error_code": error.code},
        },
        "request_id": request_id,
    }


class ConfigError(Dub5Error):
    """The configuration cannot be used; the message names the key and what to write instead."""

    code = "config_error"


class CallerError(Dub5Error):
    """The caller can mend it: never retried, never held against a provider."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request_error"


class InvalidRequest(CallerError):
    """A field is missing, of the wrong type or out of range; `param` is its path."""


class Unsupported(InvalidRequest):
    """The request is right, but asks for what this route cannot do: the next route is asked. 400 where none can."""


class InvalidKey(CallerError):
    """No key, or one that we do not know."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(CallerError):
    """A known key without the role that the route asks for."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class ModelNotAllowed(Forbidden):
    """A known key that may use other models: the same for one that does not exist, so that nobody finds out."""

    code = "model_not_allowed"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"This key may not use the model `{_shown(name)}`. GET /v1/models lists those that it may.",
            param="model",
        )


class ForeignOrigin(CallerError):
    """A page of another origin calls without a valid key. `origin` is None or empty where it is not known."""

    status = 403
    type = "permission_error"
    code = "origin_not_allowed"

    def __init__(self, origin: str | None) -> None:
        page = "A web page" if not origin else f"A page of {origin[:100]}"
        super().__init__(
            f"{page} may not call this service without a valid key. `server.allowed_origins` lists those that may.",
            param="Origin",
        )


class UnknownModel(CallerError):
    """`model` names neither a personality nor a model."""

    status = 404
    code = "model_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The model `{_shown(name)}` does not exist. GET /v1/models lists those that do.", param="model"
        )


def _shown(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + "…"


class UnknownPath(CallerError):
    """No route at this path."""

    status = 404
    code = "not_found"


class UnknownResponse(CallerError):
    """A Response that was never kept, or is not any more."""

    status = 404
    code = "response_not_found"

    def __init__(self, name: str, *, param: str) -> None:
        super().__init__(
            f"Nothing is kept under {name[:100]}: it may have expired, or was answered with `store: false`.",
            param=param,
        )


class UnknownPrevious(UnknownResponse):
    """An answer of the conversation to go on with was never kept, or is not any more."""

    code = "previous_response_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(name, param="previous_response_id")


class WrongMethod(CallerError):
    """The path exists, with another method; `allow` lists which."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class RequestTooLarge(CallerError):
    """The body passed `server.max_body`, counted while it arrived."""

    status = 413
    code = "request_too_large"


class UnknownHost(CallerError):
    """No keys, and a `Host` name that a stranger may have pointed here: RFC 9110 section 15.5.20."""

    status = 421
    code = "host_not_allowed"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"Without keys this service does not answer as {host[:100]}. `server.allowed_hosts` lists its names.",
            param="Host",
        )


class RequestTimeout(CallerError):
    """The request did not arrive whole within `server.read_timeout`."""

    status = 408
    code = "request_timeout"

    def __init__(self, limit: float) -> None:
        super().__init__(f"The request did not arrive whole within {limit:g} s.")


class HeadTooLarge(CallerError):
    """The request's head has too many bytes or headers."""

    status = 431
    code = "headers_too_large"


class RateLimited(Dub5Error):
    """The tenant's rate is used up; `headers` say how much of it there is, and when."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, *, retry_after: float, headers: dict[str, str]) -> None:
        super().__init__(
            f"Rate limit reached. Try again in {whole_seconds(retry_after)} s.", retry_after=retry_after
        )
        self.headers = headers


class Overloaded(Dub5Error):
    """No room now, or this replica is draining; `retry_after` says when to try again."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"


def shutting_down() -> Overloaded:
    """For who is not served since this replica leaves: another one will."""
    return Overloaded("This replica is shutting down.", retry_after=1)


class NotCached(Dub5Error):
    """RFC 9111 section 5.2.1.7: `only-if-cached` and no stored answer may be used."""

    status = 504
    type = "cache_error"
    code = "not_cached"


class PurgedHereOnly(Dub5Error):
    """The purge is in force on the replica that answered; the others will learn of it when Redis is back."""

    status = 503
    type = "cache_error"
    code = "purged_here_only"

    def __init__(self) -> None:
        super().__init__(
            "Purged on this replica only, since Redis is away. The other replicas follow when it is back.",
            retry_after=1,
        )


class ResponsesAway(Dub5Error):
    """Redis is away, where Responses are kept: nobody can tell whether this one is."""

    status = 503
    code = "responses_away"

    def __init__(self) -> None:
        super().__init__("What Responses are kept cannot be read now.", retry_after=1)


class ProviderError(Dub5Error):
    """A provider failed: unreachable, 5xx, rate limited, refusing what another may take, or talking nonsense.

    Where its refusal is about the request or its rate, `as_said` gives the provider's own status and code. `scope`:
    what the failure is about. `transient`: the same call may well succeed in a moment. `busy`: the provider wants fewer
    calls. `plain` is the message without what the provider said itself, which may quote the prompt: this
    may be logged.
    """

    status = 502
    type = "provider_error"
    code = "provider_error"

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        param: str | None = None,
        retry_after: float | None = None,
        transient: bool = False,
        busy: bool = False,
        plain: str | None = None,
        scope: FailureScope = "model",
    ) -> None:
        super().__init__(message, param=param, retry_after=retry_after)
        self.scope = scope
        self.plain = message if plain is None else plain
        self.provider = provider
        self.transient = transient
        self.busy = busy

    @property
    def is_outage(self) -> bool:
        """Not so where a provider that is well refused this request."""
        return self.status >= 500 or self.status == 429


class ProviderTimeout(ProviderError):
    """A provider kept us waiting: to connect, for the first token, between tokens or in all."""

    status = 504
    code = "provider_timeout"


class DeadlinePassed(Dub5Error):
    """The caller's own deadline passed before the answer was there."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"

    def __init__(self) -> None:
        super().__init__("The answer was not there by the deadline that the request set.")


class FlightLost(Dub5Error):
    """The replica that asked the provider for everybody was lost after it had sent part of the answer."""

    status = 502
    type = "provider_error"
    code = "answer_lost"

    def __init__(self) -> None:
        super().__init__("The answer broke off: the replica that was fetching it is gone. Ask again.")


class InternalError(Dub5Error):
    """A defect of ours. The message says nothing about it; the log does."""

    def __init__(self) -> None:
        super().__init__(
            "The server failed to answer this request. Quote the X-Request-Id header when you report it."
        )


_Error = TypeVar("_Error", bound=Dub5Error)


def all_failed(model: str, failures: Sequence[ProviderError]) -> ProviderError:
    """What the caller gets after every route of `model` failed: the last failure, with its status, code and hints.

    Where several failed the words say so.
    """
    last = failures[-1]
    if len(failures) == 1:
        return last
    summed = _blank(type(last), f"Every provider of the model {model} failed; the last: {last.message}")
    summed.__dict__.update({**last.__dict__, "message": summed.message})
    return summed


def _blank(kind: type[_Error], message: str) -> _Error:
    """One of any class, whatever its own constructor asks for."""
    error = kind.__new__(kind)
    Dub5Error.__init__(error, message)
    return error


_OWN = ("status", "type", "code", "should_retry")
"""What one error may have in place of its class's."""


def to_wire(error: Dub5Error) -> dict[str, Any]:
    """Plain data from which another replica can raise the same error.

    `code` is the class's: by it also a replica of another release knows what it has in hand.
    """
    kind = type(error)
    own = {name: value for name in _OWN if (value := getattr(error, name)) != getattr(kind, name)}
    return {
        "message": error.message,
        "type": kind.type,
        "param": error.param,
        "code": kind.code,
        "retry_after": error.retry_after,
        "own": own,
    }


def from_wire(data: dict[str, Any]) -> Dub5Error:
    """The inverse of `to_wire`; an error that this release does not know becomes InternalError."""
    error = _blank(_BY_CODE.get(data["code"], InternalError), data["message"])
    error.param, error.retry_after = data["param"], data["retry_after"]
    if isinstance(error, ProviderError):
        error.provider, error.plain = "", "A provider failed that another replica asked."
        error.scope, error.transient, error.busy = "request", False, False
    own = data.get("own", {})
    return error.as_said(**{name: own[name] for name in _OWN if name in own})


_BY_CODE: dict[str, type[Dub5Error]] = {
    kind.code: kind
    for kind in (
        InvalidRequest,
        RequestTooLarge,
        Overloaded,
        ProviderError,
        ProviderTimeout,
        FlightLost,
        InternalError,
    )
}
"""The errors that asking a provider can raise."""
