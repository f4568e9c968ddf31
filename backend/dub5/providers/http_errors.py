"""What goes wrong with a provider behind HTTP, as errors in our words.

A provider's refusal of the *request* (400, 413, 422) is the caller's error; anything else is the provider's fault, or
where this replica has run out of something, its own (`Overloaded`). What a refusal says is kept (`refusals`), without
anything that is the operator's (`redaction`).
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Mapping

import aiohttp

from dub5.errors import (
    CallerError,
    FailureScope,
    InvalidRequest,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RequestTooLarge,
)
from dub5.process.descriptors import SHORTAGES
from dub5.providers import refusals
from dub5.providers.odd_answers import Reported, Unusable
from dub5.providers.redaction import REDACTED, Redactor
from dub5.providers.refusals import Refusal
from dub5.providers.upstream import Closed, NotAccepted, NotHttp, Undecodable, Unreachable, UpstreamError
from dub5.settings.addresses import Proxy

_TOO_LARGE, _TOO_MANY = 413, 429

NO_CREDENTIALS = "asks for credentials, or for other ones (status 407)"

_PASSING = {500, 502, 503, 529}
"""Statuses that say that the same call may succeed in a moment; 529 is Anthropic's `overloaded_error`."""

_LEAST_OF_SERVERS = 500
"""From here on statuses are the server's own failure."""

_NEVER_AGAIN = {403, 404, 409, 413, 429}
"""Statuses of a request that fails each time, though perhaps only here; the SDKs would send some again."""

_CODES = {
    **dict.fromkeys((400, 422), ("invalid_request_error", "invalid_request_error")),
    413: ("request_too_large", "invalid_request_error"),
    429: ("rate_limit_exceeded", "rate_limit_error"),
}
"""Code and type of a refusal of a request, where the provider has none."""

_WITHOUT_WORDS = {_TOO_LARGE: "The request is too large for the provider."}


class TunnelCut(aiohttp.ClientConnectionError):
    """The proxy ended the connection instead of answering to CONNECT."""


class HttpErrors:
    """The errors of one provider, reached through `proxy`, if any; `redact` takes out what is the operator's."""

    def __init__(self, provider: str, proxy: Proxy | None, redact: Redactor) -> None:
        self._name = provider
        self._proxy = proxy
        self._redact = redact

    def of_connection(
        self, error: aiohttp.ClientError | UpstreamError | TimeoutError, action: str | None
    ) -> ProviderError | Overloaded:
        """What aiohttp or `upstream` raised, or for what the provider took too long, in our words."""
        if isinstance(error, (aiohttp.ClientOSError, UpstreamError)) and _is_shortage(error):
            return out_of("file descriptors, ports or memory")
        if self._proxy is not None and (what := _done_by(self._proxy, error)) is not None:
            return self.of_proxy(*what)
        match error:
            case aiohttp.ServerTimeoutError() | NotAccepted():
                through = "" if self._proxy is None else " through its proxy"
                return self.timeout(f"accept a connection{through}", scope="provider")
            case (
                aiohttp.ClientConnectorCertificateError()
                | Unreachable(__cause__=ssl.CertificateError() | ssl.SSLCertVerificationError())
            ):
                return self.error("has a certificate that is not trusted here", scope="provider")
            case aiohttp.ClientConnectorError() | aiohttp.ClientSSLError() | Unreachable():
                return self.error("cannot be reached", transient=True, scope="provider")
            case aiohttp.ClientResponseError() | NotHttp():
                return self.error("sent what is not HTTP")
            case Undecodable():
                return self.error("sent an answer in a compression that cannot be read; none was asked for")
            case TimeoutError() if action is not None:
                return self.timeout(action)
        # In the middle of an answer?
        cut = isinstance(error, aiohttp.ClientPayloadError) or (isinstance(error, Closed) and error.begun)
        return self.error("broke off", transient=True, scope="model" if cut else "server")

    def error(
        self,
        what: str,
        *,
        said: str = "",
        code: str | None = None,
        retry_after: float | None = None,
        transient: bool = False,
        busy: bool = False,
        scope: FailureScope = "request",
    ) -> ProviderError:
        """A sentence that begins with the provider's name and goes on with `what`, and with what it `said` itself.

        That is shown as it is: nothing of the operator's may be in it. `code` is the provider's, for the log.
        """
        words = f": {said.rstrip('.')}" if said else ""
        known = f" ({code})" if code else ""
        return ProviderError(
            f"The provider {self._name} {what}{words}.",
            plain=f"The provider {self._name} {what}{known}.",
            provider=self._name,
            retry_after=retry_after,
            transient=transient,
            busy=busy,
            scope=scope,
        )

    def of_proxy(self, what: str, transient: bool = False) -> ProviderError:  # see _done_by
        words = f"The proxy of the provider {self._name} {what}."
        error = ProviderError(words, provider=self._name, transient=transient, scope="provider")
        return error.as_said(should_retry=None if transient else False)

    def timeout(self, action: str, scope: FailureScope = "server") -> ProviderTimeout:
        words = f"The provider {self._name} took too long to {action}."
        return ProviderTimeout(words, provider=self._name, scope=scope)

    def of_status(self, status: int, headers: Mapping[str, str], body: bytes) -> CallerError | ProviderError:
        """A status other than 200 as an error of ours, with the provider's words and none of its secrets."""
        refusal = refusals.read(body)
        if refusals.verdict(status, refusal) == "caller":
            kind = RequestTooLarge if status == _TOO_LARGE else InvalidRequest
            words = self._redact(refusal.words) or _WITHOUT_WORDS.get(
                status, "The provider refused the request."
            )
            error = kind(words, param=self._kept(refusal.param))
            return error.as_said(
                status=status, code=self._kept(refusals.code_of(refusal)), type=self._kept(refusal.type)
            )
        now = time.time()
        wait = refusals.retry_after(headers, now)
        if wait is None:
            wait = refusal.retry_after
        if wait is None and status == _TOO_MANY:
            wait = refusals.reset_after(headers, now)
        return self._refused(status, refusal, f"answered with status {status}", wait)

    def of_answer(self, odd: Unusable | Reported) -> ProviderError:
        """What is wrong with an answer that began with status 200, as an error of ours."""
        if isinstance(odd, Unusable):
            return self.error(odd.what, scope=odd.scope)
        refusal = refusals.read_json(odd.error)
        status = refusals.implied_status(refusal)
        refused = self._refused(status, refusal, "reported an error", refusal.retry_after)
        if refused.should_retry is None:
            refused.as_said(code=self._kept(refusal.code))
        return refused

    def _refused(self, status: int | None, refusal: Refusal, what: str, wait: float | None) -> ProviderError:
        """`status` is None where the error came without one."""
        shown = self._redact(refusal.words)
        code, kind = self._kept(refusals.code_of(refusal)), self._kept(refusal.type)
        if status is None:
            return self.error(what, said=shown, code=code)
        match refusals.verdict(status, refusal, names_us=REDACTED in shown):
            case "credentials":  # its message quotes the key
                scope: FailureScope = "request" if status in _NEVER_AGAIN else "provider"
                refused = f"refused the service's credentials (status {status})"
                return self.error(refused, code=code, scope=scope).as_said(should_retry=False)
            case "account":
                scope = "request" if status in _NEVER_AGAIN else "model"
                return self.error(what, said=shown, code=code, scope=scope).as_said(should_retry=False)
            case "fault":
                passing = status in _PASSING
                scope = "server" if status >= _LEAST_OF_SERVERS else "model"
                return self.error(
                    what, said=shown, code=code, retry_after=wait, transient=passing, scope=scope
                )
            case "rate":
                error = self._in_its_words(
                    what, shown, refusal, code, retry_after=wait, busy=True, scope="model"
                )
                return error.as_said(
                    status=status, code=code or "rate_limit_exceeded", type=kind or "rate_limit_error"
                )
            case "quota":  # a time to wait would only mislead
                error = self._in_its_words(what, shown, refusal, code, scope="model")
                error.as_said(status=status, type=kind or "insufficient_quota", should_retry=False)
                return error.as_said(code=code or "insufficient_quota")
            case "request" | "caller" as verdict:
                error = self._in_its_words(what, shown, refusal, code)
                vain = verdict == "caller" or status in _NEVER_AGAIN
                usual_code, usual_type = _CODES.get(status, (None, None))
                return error.as_said(
                    status=status,
                    code=code or usual_code,
                    type=kind or usual_type,
                    should_retry=False if vain else None,
                )

    def _in_its_words(
        self,
        what: str,
        shown: str,
        refusal: Refusal,
        code: str | None,
        *,
        retry_after: float | None = None,
        busy: bool = False,
        scope: FailureScope = "request",
    ) -> ProviderError:
        """What is about the request or its rate is answered as the provider `shown` it; `what` is for the log."""
        ours = self.error(what, code=code)
        return ProviderError(
            shown or ours.message,
            plain=ours.plain,
            provider=self._name,
            param=self._kept(refusal.param),
            retry_after=retry_after,
            busy=busy,
            scope=scope,
        )

    def _kept(self, word: str | None) -> str | None:
        """A code, type or param, unless something of the operator's is in it."""
        return word if word is None else self._redact.identifier(word)


def out_of(what: str) -> Overloaded:
    return Overloaded(f"This replica has run out of {what}. Try again later.", retry_after=1)


def _is_shortage(error: aiohttp.ClientOSError | UpstreamError) -> bool:
    """Whether this machine, not the provider, is why there is no connection."""
    cause = error.__cause__ if isinstance(error, UpstreamError) else error
    number = cause.errno if isinstance(cause, OSError) else None
    if number == errno.EADDRNOTAVAIL:  # no port is left; but with an IPv6 address: there is no IPv6 here
        return not (isinstance(error, (aiohttp.ClientConnectorError, Unreachable)) and ":" in error.host)
    if number in SHORTAGES:
        return True
    unknown = isinstance(error, aiohttp.ClientConnectorDNSError) or isinstance(cause, socket.gaierror)
    return unknown and not _has_descriptors()


def _has_descriptors() -> bool:
    """The resolver says of each failure that the name is not known."""
    try:
        socket.socket().close()
    except OSError:
        return False
    return True


def _done_by(proxy: Proxy, error: Exception) -> tuple[str, bool] | None:
    """What the proxy did, and whether it may pass; None where it was somebody else, or cannot be known."""
    match error:
        case aiohttp.ClientHttpProxyError(status=407):
            return NO_CREDENTIALS, False
        case aiohttp.ClientHttpProxyError(status=status):
            return f"refused the connection (status {status})", status in _PASSING
        case TunnelCut():
            return "closed the connection", True
        case aiohttp.ClientResponseError() if error.request_info.method == "CONNECT":
            return "sent what is not HTTP", False
        case aiohttp.ClientConnectorCertificateError(host=proxy.url.raw_host, port=proxy.url.port):
            return "has a certificate that is not trusted here", False
        case aiohttp.ClientConnectorError(host=proxy.url.raw_host, port=proxy.url.port):
            return "cannot be reached", True
    return None
