"""What a browser says of the page that sends a request, and what may be let in by it.

A browser sends requests for whatever page it shows, also to addresses that only its own machine or network can reach.
What it says of them no page can change: the host that was asked for, the origin of the page, and how the two are
related (Fetch Metadata). Programs that are no browsers say none of it but the host.

* `Hosts`: a page can point its own name at our address (DNS rebinding); then all it asks is of its own origin. Where
  keys do not keep it out, only names that no stranger can have are served (docs/adr/0024).
* `Origins`: pages of other origins, of which those in `server.allowed_origins` may call and read the answers (CORS),
  and the others need a key.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping
from enum import Enum, auto

Headers = list[tuple[bytes, bytes]]

BROWSER_HEADERS = frozenset({b"origin", b"sec-fetch-site"})
"""Names of the headers that browsers send; what has none of them is a program, or a page's harmless GET of long ago."""

_HOST = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_REMEMBERED = 256

_USUAL_PORTS = {"http": ":80", "https": ":443"}

_EXPOSED = (
    *("age", "allow", "cache-status", "date", "openai-processing-ms", "retry-after", "server-timing"),
    *("request-id", "www-authenticate", "x-request-id", "x-should-retry"),
    *(
        f"x-ratelimit-{what}-{unit}"
        for unit in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    ),
)
_METHODS = b"GET, HEAD, POST, DELETE"
_PREFLIGHT_LIFE = b"7200"
"""Seconds for which a browser need not ask again: the most that Chromium takes."""

_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~ ,-]{1,4096}")

VARY = (b"vary", b"Origin")


class Verdict(Enum):
    GOOD = auto()
    MALFORMED = auto()
    UNKNOWN = auto()


class Hosts:
    """Which names of the host are served: all where `allowed` is None.

    Else the loopback's own, the address that the connection came to, and those in `allowed`: a name, an address, every
    name under one (`*.example.com`), or all (`*`).
    """

    def __init__(self, allowed: Iterable[str] | None = None) -> None:
        names = None if allowed is None else frozenset(map(_plain, allowed))
        self._names = None if names is None or "*" in names else names
        # Nearly always it is one of a few.
        self.judge = functools.lru_cache(_REMEMBERED)(self._judge)

    def _judge(self, host: bytes, own: str | None) -> Verdict:
        """Of a `Host` header, its port aside, on a connection to the address `own`."""
        match = _HOST.fullmatch(host)
        if match is None:
            return Verdict.MALFORMED
        if self._names is None:
            return Verdict.GOOD
        name = _plain(match[1].decode())
        known = name in self._names or _is_loopback(name) or (own is not None and name == _plain(own))
        return Verdict.GOOD if known or self._under_one(name) else Verdict.UNKNOWN

    def _under_one(self, name: str) -> bool:
        return any(each[:2] == "*." and name.endswith(each[1:]) for each in self._names or ())


def _plain(host: str) -> str:
    """One spelling of a host's name or address."""
    name = host.strip("[]").removesuffix(".").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


class Origins:
    """The pages that may call and read the answers: `allowed` are origins, or `*` for all of them."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        exposed = (b"access-control-expose-headers", ", ".join(_EXPOSED).encode())
        self._any: Headers | None = None
        self._each: dict[str, Headers] = {}
        for origin in allowed:
            if origin == "*":
                # Not with credentials: any page could then use what the browser keeps for a proxy before us.
                self._any = [(b"access-control-allow-origin", b"*"), exposed, VARY]
            else:
                self._each[_usual(origin)] = [
                    (b"access-control-allow-origin", _usual(origin).encode()),
                    (b"access-control-allow-credentials", b"true"),
                    exposed,
                    VARY,
                ]

    def __bool__(self) -> bool:
        return bool(self._each) or self._any is not None

    def headers(self, origin: str | None) -> Headers | None:
        """What lets a page of `origin` read an answer; None where it may not."""
        if origin is None:
            return None
        return self._each.get(origin, self._any)


def _usual(origin: str) -> str:
    """As browsers write it."""
    scheme, _, authority = origin.partition("://")
    if scheme.lower() not in _USUAL_PORTS:
        return origin  # the names of programs' own schemes may have capitals
    return f"{scheme}://{authority}".lower().removesuffix(_USUAL_PORTS[scheme.lower()])


def is_foreign(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a page of another origin sends this, or one that hides its own.

    A link to us that a person follows is not: it only reads, and the page that it was on sees nothing of the answer.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is None and method in {"GET", "HEAD"} and headers.get("sec-fetch-mode") == "navigate":
        return headers.get("sec-fetch-dest") != "document"
    return site not in {"same-origin", "none"} or (
        origin is not None and not _is_own(origin, headers.get("host", ""))
    )


def _is_own(origin: str, host: str) -> bool:
    """Whether it is that of a page which came from this very host. Its scheme is known to a proxy before us alone."""
    scheme, _, authority = origin.partition("://")
    port = _USUAL_PORTS.get(scheme)
    return port is not None and authority.removesuffix(port) == host.lower().removesuffix(port)


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks, before a request that a form could not send, if it may."""
    return method == "OPTIONS" and "access-control-request-method" in headers


def preflight_headers(headers: Mapping[str, str]) -> Headers:
    """The answer to a preflight of an allowed origin, beside what `Origins.headers` gives it.

    Any header may be sent, since which ones clients send changes with each release of theirs.
    """
    allowed: Headers = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", _PREFLIGHT_LIFE),
        (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
    asked = headers.get("access-control-request-headers", "")
    if _NAMES.fullmatch(asked):
        allowed.append((b"access-control-allow-headers", asked.encode()))
    if headers.get("access-control-request-private-network") == "true":
        allowed.append((b"access-control-allow-private-network", b"true"))
    return allowed
