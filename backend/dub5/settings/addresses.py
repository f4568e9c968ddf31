"""Addresses of providers: where an API begins, and which proxy leads there.

Pure, and without secrets in any message: what stands in the place of an address may hold one. ValueErrors say what to
write instead; who calls puts the key before them.

Proxies are named by the environment as curl, httpx and most others read it: `HTTPS_PROXY` or `HTTP_PROXY` by the scheme
of the target, else `ALL_PROXY`, and `NO_PROXY` for who is reached without; a name in lower case wins over the same one
in upper case, and one that is empty names none. Sources: https://curl.se/docs/manpage.html#ENVIRONMENT, https://www.python-httpx.org/environment_variables/
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from collections.abc import Mapping

import msgspec
from yarl import URL

_AZURE = (".azure.com", ".azure.us", ".azure.cn")
_AZURE_OPENAI = re.compile(r"\.openai\.azure\.(com|us|cn)$")
_VERSION = re.compile(r"/v\d+$")
_HOST = re.compile(r"[\w.-]+")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")

_SECRET_NAME = re.compile(
    r"(api|access|subscription|auth|master|private|secret|function|functions)[-_]?key$|^(x[-_])?key$|secret|passw(or)?d"
    r"|token$|authorization|credential|cookie|[-_]auth$|[-_]jwt$|^(jwt|auth|sig|signature)$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(bearer|basic) +\S{6}|\b(sk|pk|rk|gsk|xai|hf|nvapi|pplx|ghp)[-_][A-Za-z0-9_-]{12}|\bAIza[\w-]{20}"
    r"|\beyJ[\w-]{10,}\.",
    re.IGNORECASE,
)


_NATIVE = (
    (
        "Gemini's",
        r"generativelanguage\.googleapis\.com(?!/[^/?]+/openai(?:[/?]|$))|:(?:stream)?generatecontent\b",
        "https://generativelanguage.googleapis.com/v1beta/openai",
    ),
    (
        "Vertex AI's",
        r"aiplatform\.googleapis\.com(?!/[^?]*/endpoints/[^/?:]+(?:/chat/completions)?/?(?:[?]|$))|:\w*rawpredict\b",
        "https://aiplatform.googleapis.com/v1/projects/PROJECT/locations/REGION/endpoints/openapi",
    ),
    (
        "Bedrock's",
        r"bedrock[\w.-]*\.amazonaws\.com(?!(?::\d+)?/openai(?:[/?]|$))|/model/[^/]+/(?:invoke|converse)\b",
        "https://bedrock-runtime.REGION.amazonaws.com/openai/v1",
    ),
    (
        "Ollama's",
        r"/api/(?:generate|chat|tags|embed)/?(?:[?]|$)|(?:localhost|127\.0\.0\.1|ollama[\w.-]*):11434/api\b",
        "http://HOST:11434/v1",
    ),
    (
        "Cohere's",
        r"api\.cohere\.(?:com|ai)(?!/compatibility(?:[/?]|$))",
        "https://api.cohere.ai/compatibility/v1",
    ),
    ("one Databricks model's", r"/serving-endpoints/[^/?]+/invocations\b", "https://HOST/serving-endpoints"),
)
"""Whose own APIs are known by their addresses, and where the same service is to be asked as OpenAI is."""


def _refuse_native(written: str) -> None:
    """ValueError where an address belongs to an API that is neither OpenAI's nor Anthropic's."""
    address = written.partition("://")[2].lower()
    for whose, pattern, like_openai in _NATIVE:
        if re.search(pattern, address):
            raise ValueError(
                f"this is {whose} own API; the one like OpenAI's is at {like_openai}, with kind: openai"
            )


class Root(msgspec.Struct, frozen=True):
    """Where an API begins: an address up to and with its version, and the query that goes with each call."""

    url: str
    query: str = ""

    def at(self, path: str) -> URL:
        """The address of one part of it, such as `/chat/completions`: the query stays behind the path."""
        return URL(f"{self.url}{path}{f'?{self.query}' if self.query else ''}")


class Proxy(msgspec.Struct, frozen=True):
    """A proxy without its credentials, and the value of `Proxy-Authorization` where there are some."""

    url: URL
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"Proxy({self.url})"


def openai_root(base_url: str) -> Root:
    """Of what speaks Chat Completions. An address without a path gets `/v1`, any other is taken as it is written.

    The whole address, `…/chat/completions`, may be given too: for the few servers that have no version.
    """
    url = _url(base_url)
    path, host = url.raw_path.rstrip("/"), url.raw_host or ""
    for ending, meant in (
        ("/messages", "for Anthropic's API write kind: anthropic"),
        ("/responses", "leave /responses out: calls go to /chat/completions"),
        ("/embeddings", "leave /embeddings out: calls go to /chat/completions"),
    ):
        if path.endswith(ending):
            raise ValueError(meant)
    if path.endswith("/completions") and not path.endswith("/chat/completions"):
        raise ValueError("leave /completions out: calls go to /chat/completions")
    if not path and _AZURE_OPENAI.search(host):
        raise ValueError(
            "Azure's API is at …/openai/v1, the classic one at …/openai/deployments/NAME?api-version=DATE"
        )
    if "/openai/deployments/" in path and host.endswith(_AZURE) and "api-version" not in url.query:
        raise ValueError("Azure's classic deployments need ?api-version=DATE behind the path")
    _refuse_native(base_url)
    if any(is_secret(name, value) for name, value in url.query.items()):
        raise ValueError(
            "secrets are never inline; write api_key, and api_key_header: NAME where it is no Bearer"
        )
    root, _, query = base_url.partition("?")
    root = root.rstrip("/")
    if not path:
        return Root(f"{root}/v1", query)
    return Root(root.removesuffix("/chat/completions"), query)


def anthropic_root(base_url: str) -> Root:
    """Of Anthropic's API and what speaks it: with its version, without, or the whole address `…/v1/messages`."""
    url = _url(base_url)
    path = url.raw_path.rstrip("/")
    if path.endswith(("/chat/completions", "/completions", "/responses")):
        raise ValueError("this is an address of OpenAI's API; write kind: openai")
    _refuse_native(base_url)
    if "?" in base_url:
        raise ValueError("takes no query (what follows `?`)")
    root = base_url.rstrip("/")
    if path.endswith("/messages"):
        return Root(root.removesuffix("/messages"))
    return Root(root if _VERSION.search(path) else f"{root}/v1")


def is_secret(name: str, value: str) -> bool:
    """Whether a header or a member of a query, by its name or by what it holds, is one that nobody else may see."""
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value))


def named_proxy(written: str) -> Proxy:
    """The proxy that a configuration names. Credentials have places of their own."""
    proxy = _proxy(written)
    if proxy.authorization is not None:
        raise ValueError(
            "secrets are never inline; write proxy_username and proxy_password: {env: NAME} or {file: PATH}"
        )
    return proxy


def proxy_from(environment: Mapping[str, str], target: URL) -> Proxy | None:
    """The proxy that the environment names for `target`, with the credentials that are in its address; None: directly.

    Nothing but NO_PROXY leaves it out, as with curl: not even the loopback address.
    """
    scheme = f"{target.scheme}_proxy"
    name = scheme if _variable(environment, scheme) else "all_proxy"
    written = _variable(environment, name)
    if not written or is_left_out(target, _variable(environment, "no_proxy")):
        return None
    try:
        return _proxy(written)
    except ValueError as error:
        raise ValueError(f"the environment variable {_spelt(environment, name)}: {error}") from None


def is_left_out(target: URL, no_proxy: str) -> bool:
    """Whether NO_PROXY names `target`.

    Its entries are `*`, or host names, which stand for all names below them as well (`example.com`, `.example.com`,
    `*.example.com`), addresses and networks (`10.0.0.0/8`, `::1`, `fd00::/8`), each with or without a port.
    """
    return any(_matches(entry, target) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def basic(username: str, password: str) -> str:
    """The value of `Proxy-Authorization`: RFC 7617."""
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name, environment.get(name.upper(), "")).strip()


def _spelt(environment: Mapping[str, str], name: str) -> str:
    return name if name in environment else name.upper()


def _matches(entry: str, target: URL) -> bool:
    if entry == "*":
        return True
    scheme, separator, rest = entry.rpartition("://")
    if separator and scheme not in {"all", target.scheme}:
        return False
    name, port = _name_and_port(rest)
    if port and port != str(target.port):
        return False
    host = (target.host or "").rstrip(".")
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        suffix = name.removeprefix("*").strip(".")
        return bool(suffix) and any(
            each == suffix or each.endswith(f".{suffix}")
            for each in {host, (target.raw_host or "").rstrip(".")}
        )
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False


def _name_and_port(written: str) -> tuple[str, str]:
    """`a:1`, `[::1]:1` and `10.0.0.0/8:1` in two; the port is empty where there is none."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", written)
    if bracketed:
        return bracketed[1], bracketed[2] or ""
    name, separator, port = written.rpartition(":")
    return (name, port) if separator and ":" not in name and port.isdigit() else (written, "")


def _proxy(written: str) -> Proxy:
    address = written.strip()
    scheme, separator, _ = address.partition("://")
    if not separator:
        address = f"http://{address}"
    elif scheme.lower() not in {"http", "https"}:
        raise ValueError(
            "must be a proxy at http:// or https://; others, such as socks5://, are not known here"
        )
    url = _absolute(address)
    if url.raw_path not in {"", "/"} or url.query_string or url.fragment:
        raise ValueError("a proxy has a host and a port, and no path")
    authorization = None if url.user is None else basic(url.user, url.password or "")
    return Proxy(url.origin(), authorization)


def _url(base_url: str) -> URL:
    if not re.match(r"https?://[^/]", base_url, re.IGNORECASE):
        raise ValueError("must start with http:// or https://")
    if "@" in re.split(r"[/?#]", base_url.partition("://")[2], maxsplit=1)[0]:
        raise ValueError("secrets are never inline; write api_key: {env: NAME} or {file: PATH}")
    if "#" in base_url:
        raise ValueError("takes no fragment (what follows `#`)")
    return _absolute(base_url)


def _absolute(address: str) -> URL:
    """What an HTTP client can connect to."""
    if _BLANK.search(address):
        raise ValueError("must not hold blanks or line breaks")
    try:
        url = URL(address)
    except ValueError:
        raise ValueError("not an address: see the host and the port") from None
    host = url.host or ""
    if not url.port:
        raise ValueError("not an address: its port must be 1 to 65535")
    if ":" not in host and not _is_host_name(host):
        raise ValueError("not an address: its host is no name and no IP address")
    return url


def _is_host_name(host: str) -> bool:
    try:
        encoded = host.rstrip(".").encode("idna")  # as Python's resolver does; knows how long a label may be
    except UnicodeError:
        return False
    return bool(_HOST.fullmatch(host)) and 0 < len(encoded) <= 253
