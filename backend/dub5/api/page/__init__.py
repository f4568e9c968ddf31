"""`GET /`: the page. Chat with a personality, see the answer stream, see what the cache did.

Files of this folder, served as they are: no build step and no foreign origin. The page is a client of the public
API like any other, so it can do nothing that its user's key cannot. It is open to all and tells nothing about the
installation; `server.page: false` switches it off.

Its security policy forbids everything but its own files and requests to its own origin: no inline script or style, no
frames, no strings that become markup. A key that is typed in is held in a variable and nowhere else.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from dub5.api.http import Headers, headers_of, send_error, send_whole
from dub5.errors import WrongMethod
from dub5.telemetry.record import record_of

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

SECURITY: Headers = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
]
"""On every file of the page."""

_CACHING = (b"cache-control", b"no-cache")
"""Ask each time, by ETag: a page of one release must never run with a script of another."""

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/page/plots.js": ("plots.js", "text/javascript; charset=utf-8"),
    "/page/words.js": ("words.js", "text/javascript; charset=utf-8"),
}


class _File(msgspec.Struct, frozen=True):
    body: bytes
    etag: bytes
    headers: Headers


class Page:
    """All files, read once, when it is made: serving one is no I/O."""

    def __init__(self) -> None:
        self._files = {path: _read(name, kind) for path, (name, kind) in _FILES.items()}

    def route(self) -> ASGIRouteHandler:
        """For Litestar."""
        return asgi(list(self._files), copy_scope=False)(self.handle)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's three
        record = record_of(scope)
        record.route = "/" + scope["path"].strip("/")  # Litestar takes further slashes for nothing
        file, method = self._files[record.route], record.method
        if method not in {"GET", "HEAD"}:
            error = WrongMethod("The page is read by GET.", allow="GET, HEAD")
            record.error_code = error.code
            await send_error(send, error)
        elif file.etag in _etags(headers_of(scope).get("if-none-match", "")):
            await send({"type": "http.response.start", "status": 304, "headers": file.headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif method == "HEAD":
            length = (b"content-length", str(len(file.body)).encode())
            await send({"type": "http.response.start", "status": 200, "headers": [*file.headers, length]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await send_whole(send, 200, file.headers, file.body)


def _read(name: str, kind: str) -> _File:
    body = resources.files(__name__).joinpath(name).read_bytes()
    etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'.encode()
    head: Headers = [(b"content-type", kind.encode()), (b"etag", etag), _CACHING, *SECURITY]
    return _File(body, etag, head)


def _etags(header: str) -> set[bytes]:
    """Weak ones too: what a proxy has compressed on the way is the same file."""
    return {each.strip().removeprefix("W/").encode() for each in header.split(",")}
