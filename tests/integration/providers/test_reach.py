"""The way to a provider: through proxies, with authorities of one's own, by the headers and paths that servers want."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from dub5 import providers
from dub5.errors import ConfigError, Overloaded, ProviderError
from dub5.process.descriptors import Sockets
from dub5.providers.listing import ListsModels, parse
from dub5.providers.protocol import Call, Provider
from dub5.settings.loader import convert
from testkit.anthropic_server import FakeAnthropic
from testkit.http_server import HANG, hang, refuse, stream
from testkit.http_server import whole as whole_answer
from testkit.openai_server import FakeOpenAI, completion, frames, say
from testkit.proxy_server import FakeProxy
from tests.harness import openai_provider, running
from tests.pulling import chunks_of

KEY = "planted4Zx9Qw7"  # unlike any known kind of key: only the exact text gives it away
QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}
CLOSES = {"connection": "close"}
USER, PASSWORD = "dub5", "s3cr3t:Passw@rd"


class Authority(NamedTuple):
    """A private one: what a server shows, and the file that trusts it."""

    server: ssl.SSLContext
    file: str
    named: ssl.SSLContext
    """As `server`, for models.example."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("127.0.0.1").configure_cert(context)
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    made.cert_pem.write_to_path(str(path))
    named = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("models.example").configure_cert(named)
    return Authority(context, str(path), named)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of another authority."""
    path = tmp_path_factory.mktemp("other") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


def made(
    base_url: str,
    environment: Mapping[str, str] | None = None,
    sockets: Sockets | None = None,
    **settings: Any,
) -> Provider:
    """As `serve` would make it, in this environment."""
    written = {"kind": "openai", "base_url": base_url, "api_key": {"env": "KEY"}, **settings}
    routes = {"m": {"routes": ["acme/x"]}}
    environment = {"KEY": KEY, "PROXY_PASSWORD": PASSWORD, **(environment or {})}
    config = convert({"providers": {"acme": written}, "models": routes})
    return providers.build(config, environment, sockets=sockets)["acme"]


@contextlib.asynccontextmanager
async def provider_at(
    base_url: str, environment: Mapping[str, str] | None = None, **settings: Any
) -> AsyncIterator[Provider]:
    provider = made(base_url, environment, **settings)
    try:
        yield provider
    finally:
        await provider.aclose()


async def answered(provider: Provider, *, whole: bool) -> str:
    call = Call(model="gpt-x", body=QUESTION, stream=not whole, headers={})
    if whole:
        return str((await provider.complete(call)).data["choices"][0]["message"]["content"])
    deltas = [
        choice["delta"] async for chunk in chunks_of(provider, call) for choice in chunk.data["choices"]
    ]
    return "".join(delta.get("content") or "" for delta in deltas)


async def trouble(
    base_url: str, environment: Mapping[str, str] | None = None, **settings: Any
) -> ProviderError:
    async with provider_at(base_url, environment, **settings) as provider:
        with pytest.raises(ProviderError) as caught:
            await answered(provider, whole=True)
    for secret in (KEY, PASSWORD, USER):
        assert secret not in caught.value.message
    return caught.value


both_ways = pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])


# --- Few descriptors ---


async def test_idle_connections_to_one_provider_make_room_for_another() -> None:
    async with FakeOpenAI() as one, FakeOpenAI() as other:
        sockets = Sockets(2)
        first, second = (made(each.base_url, sockets=sockets) for each in (one, other))
        await asyncio.gather(*(answered(first, whole=True) for _ in range(2)))
        assert (one.connections, other.connections) == (2, 0)
        await answered(second, whole=True)
        await answered(first, whole=False)
        assert (one.connections, other.connections) == (2, 1)
        assert len([each for each in sockets._open if each.fileno() >= 0]) == 2
        one.reply = other.reply = stream([*frames("a"), HANG])
        held = [
            chunks_of(provider, Call(model="x", body=QUESTION, stream=True, headers={}))
            for provider in (first, second)
        ]
        for each in held:
            await anext(each)
        for provider in (first, second):
            with pytest.raises(Overloaded, match="run out of"):
                await answered(provider, whole=True)
        for each in held:
            await each.aclose()
        other.reply = say("again")
        assert await answered(second, whole=True) == "again"
        for provider in (first, second):
            await provider.aclose()


# --- Proxies ---


@both_ways
@pytest.mark.parametrize("secured", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("named", ["environment", "setting"])
async def test_a_proxy_is_on_the_way(authority: Authority, named: str, secured: bool, whole: bool) -> None:
    async with FakeOpenAI(tls=authority.server if secured else None) as fake, FakeProxy() as proxy:
        variable = "HTTPS_PROXY" if secured else "HTTP_PROXY"
        way: Any = {"environment": {variable: proxy.url}} if named == "environment" else {"proxy": proxy.url}
        async with provider_at(fake.base_url, ca_file=authority.file, **way) as provider:
            assert await answered(provider, whole=whole) == "You said: Hi"
        host = fake.url.partition("//")[2]
        expected = f"CONNECT {host}" if secured else f"POST {fake.base_url}/chat/completions"
        assert proxy.asked == [expected]
        assert "proxy-authorization" not in proxy.heads[0].lower()
        assert fake.calls[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("secured", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("named", ["address", "setting"])
async def test_it_is_told_the_credentials_and_nobody_else_is(
    authority: Authority, named: str, secured: bool
) -> None:
    credentials = f"{USER}:{PASSWORD}"
    async with (
        FakeOpenAI(tls=authority.server if secured else None) as fake,
        FakeProxy(credentials=credentials) as proxy,
    ):
        host = proxy.url.partition("//")[2]
        way: dict[str, Any] = {"environment": {"ALL_PROXY": f"http://{USER}:s3cr3t%3APassw%40rd@{host}"}}
        if named == "setting":
            way = {
                "proxy": proxy.url,
                "proxy_username": USER,
                "proxy_password": {"env": "PROXY_PASSWORD"},
            }
        async with provider_at(fake.base_url, ca_file=authority.file, **way) as provider:
            assert await answered(provider, whole=True) == "You said: Hi"
            assert await answered(provider, whole=False) == "You said: Hi"
        assert not any("proxy" in name for call in fake.calls for name in call.headers)
        if secured:  # one tunnel, one handshake
            assert (proxy.connections, fake.connections) == (1, 1)
            assert KEY not in "".join(proxy.heads)


async def test_credentials_of_the_settings_win_over_those_in_the_environment(fake: FakeOpenAI) -> None:
    async with FakeProxy(credentials=f"{USER}:{PASSWORD}") as proxy:
        environment = {"http_proxy": proxy.url.replace("//", "//other:wrong@")}
        own = {"proxy_username": USER, "proxy_password": {"env": "PROXY_PASSWORD"}}
        async with provider_at(fake.base_url, environment, **own) as provider:
            assert await answered(provider, whole=True) == "You said: Hi"


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({"HTTP_PROXY": "PROXY", "NO_PROXY": "example.com, 127.0.0.0/8"}, {}),
        ({"ALL_PROXY": "PROXY", "no_proxy": "*"}, {}),
        ({"HTTPS_PROXY": "PROXY"}, {}),
        ({"HTTP_PROXY": "PROXY"}, {"proxy": "none"}),
        ({"HTTP_PROXY": "PROXY"}, {"proxy": ""}),
    ],
)
async def test_who_is_reached_without_one(
    fake: FakeOpenAI, environment: dict[str, str], settings: dict[str, str]
) -> None:
    async with FakeProxy() as proxy:
        named = {name: value.replace("PROXY", proxy.url) for name, value in environment.items()}
        async with provider_at(fake.base_url, named, **settings) as provider:
            assert await answered(provider, whole=True) == "You said: Hi"
        assert proxy.asked == []


async def test_the_setting_wins_over_the_environment(fake: FakeOpenAI) -> None:
    async with FakeProxy() as proxy:
        environment = {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "*"}
        async with provider_at(fake.base_url, environment, proxy=proxy.url) as provider:
            assert await answered(provider, whole=True) == "You said: Hi"
        assert len(proxy.asked) == 1


async def test_the_proxy_finds_the_name_not_we(authority: Authority) -> None:
    async with FakeOpenAI() as fake, FakeProxy(goes_to=int(fake.url.rpartition(":")[2])) as proxy:
        async with provider_at("http://models.example.invalid/v1", proxy=proxy.url) as provider:
            assert await answered(provider, whole=True) == "You said: Hi"
        assert fake.calls[0].headers["host"] == "models.example.invalid"


@pytest.mark.parametrize("secured", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("credentials", [False, True])
async def test_a_proxy_that_wants_credentials_or_other_ones(
    authority: Authority, secured: bool, credentials: bool
) -> None:
    settings: dict[str, Any] = {"proxy_username": USER, "proxy_password": {"env": "PROXY_PASSWORD"}}
    async with (
        FakeOpenAI(tls=authority.server if secured else None) as fake,
        FakeProxy(credentials="somebody:else") as proxy,
    ):
        error = await trouble(fake.base_url, proxy=proxy.url, **(settings if credentials else {}))
        assert fake.calls == []
    assert error.message == (
        "The proxy of the provider acme asks for credentials, or for other ones (status 407)."
    )
    assert error.scope == "provider"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "refused the connection (status 403)"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno", "refused the connection (status 503)"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "sent what is not HTTP"),
    ],
)
async def test_a_proxy_that_refuses(authority: Authority, answer: bytes, words: str) -> None:
    async with FakeOpenAI(tls=authority.server) as fake, FakeProxy(answers=answer) as proxy:
        error = await trouble(fake.base_url, proxy=proxy.url, ca_file=authority.file)
        assert fake.calls == []
    assert (error.message, error.scope) == (f"The proxy of the provider acme {words}.", "provider")
    assert error.transient is (b"503" in answer)


@pytest.mark.parametrize("resets", [False, True])
async def test_a_proxy_that_closes_instead_of_a_tunnel(resets: bool) -> None:
    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if resets:
            writer.transport.abort()
        writer.close()

    async with await asyncio.start_server(closes, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        error = await trouble("https://models.example.invalid/v1", proxy=f"http://{host}:{port}")
    assert error.message == "The proxy of the provider acme closed the connection."
    assert (error.scope, error.transient) == ("provider", True)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("target", ["http://models.example.invalid/v1", "https://models.example.invalid/v1"])
async def test_a_proxy_that_is_not_there(scheme: str, target: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        named = f"{scheme}://{USER}:s3cr3t%3APassw%40rd@127.0.0.1:{closed.getsockname()[1]}"
        error = await trouble(target, {"ALL_PROXY": named})
    assert (error.message, error.scope) == (
        "The proxy of the provider acme cannot be reached.",
        "provider",
    )


async def test_a_proxy_whose_name_nobody_knows() -> None:
    error = await trouble("https://api.example.com/v1", proxy="http://proxy.example.invalid:3128")
    assert error.message == "The proxy of the provider acme cannot be reached."


async def test_a_provider_that_is_not_there_is_not_the_proxys_trouble(
    authority: Authority, stranger: str
) -> None:
    async with FakeOpenAI(tls=authority.server) as fake, FakeProxy() as proxy:
        error = await trouble(fake.base_url, proxy=proxy.url, ca_file=stranger)
        assert proxy.connections == 1
    assert error.message == "The provider acme has a certificate that is not trusted here."


@pytest.mark.parametrize("secured", [False, True], ids=["http", "https"])
async def test_a_proxy_that_never_answers(secured: bool) -> None:
    async with FakeOpenAI() as mute:
        mute.reply = hang()
        target = "https://api.example.com/v1" if secured else "http://api.example.com/v1"
        limits = {"connect": "50ms"} if secured else {"total": "50ms"}
        error = await trouble(target, proxy=mute.url, timeouts=limits)
    doing = "accept a connection through its proxy" if secured else "finish its answer"
    assert error.message == f"The provider acme took too long to {doing}."


async def test_a_caller_is_told_of_the_proxy(fake: FakeOpenAI) -> None:
    config = openai_provider(fake.base_url)
    async with running(config, {"HTTP_PROXY": "http://user:hidden@127.0.0.1:9"}) as server:
        response = await server.chat()
    assert response.status_code == 502
    assert response.json()["error"]["message"] == "The proxy of the provider fake cannot be reached."


@pytest.mark.parametrize("proxied", [False, True], ids=["straight", "by a proxy"])
@pytest.mark.parametrize(
    "head",
    [{"content-security-policy": "a" * 30_000}, {f"x-{number}": "1" for number in range(300)}],
    ids=["a long line", "many lines"],
)
async def test_a_long_head_is_read_on_every_way(
    authority: Authority, head: dict[str, str], proxied: bool
) -> None:
    async with FakeOpenAI(tls=authority.server) as fake, FakeProxy() as proxy:
        way = proxy.url if proxied else "none"
        async with provider_at(fake.base_url, ca_file=authority.file, proxy=way) as provider:
            fake.reply = whole_answer(completion({"content": "read"}), headers=head)
            assert await answered(provider, whole=True) == "read"
            fake.reply = whole_answer({"data": [{"id": "x"}]}, headers=head)
            assert isinstance(provider, ListsModels)
            assert parse(await provider.listed())


@pytest.mark.parametrize("proxied", [False, True], ids=["straight", "by a proxy"])
async def test_a_compressed_response_is_read_alike_on_every_way(authority: Authority, proxied: bool) -> None:
    async with FakeOpenAI(tls=authority.server) as fake, FakeProxy() as proxy:
        way = proxy.url if proxied else "none"
        async with provider_at(fake.base_url, ca_file=authority.file, proxy=way) as provider:
            packed = gzip.compress(json.dumps(completion({"content": "read"})).encode())
            fake.reply = whole_answer(None, raw=packed, headers={"content-encoding": "gzip, identity"})
            assert await answered(provider, whole=True) == "read"
            fake.reply = whole_answer(None, raw=b"?", headers={"content-encoding": "br"})
            with pytest.raises(ProviderError, match="compression") as unread:
                await answered(provider, whole=True)
            assert unread.value.scope == "request"
            headers = {"content-encoding": "br", "retry-after": "7"}
            fake.reply = whole_answer(None, raw=b"?", status=429, headers=headers)
            with pytest.raises(ProviderError) as busy:
                await answered(provider, whole=True)
            assert (busy.value.status, busy.value.retry_after) == (429, 7.0)


# --- Several addresses ---


@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
async def test_an_address_that_accepts_and_speaks_no_tls_is_not_the_provider(
    authority: Authority, last_words: bytes | None
) -> None:
    async def breaks(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if last_words is None:
            writer.transport.abort()
        else:
            writer.write(last_words)
            writer.close()

    async with FakeOpenAI(tls=authority.named) as fake:
        port = int(fake.url.rpartition(":")[2])
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")
        ]

        async def found(*_: object, **__: object) -> list[Any]:
            return addresses

        fake.reply = whole_answer(completion({"role": "assistant", "content": "Hi"}), headers=CLOSES)
        async with await asyncio.start_server(breaks, "127.0.0.2", port):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(asyncio.get_running_loop(), "getaddrinfo", found, raising=False)
                base_url = f"https://models.example:{port}/v1"
                async with provider_at(base_url, ca_file=authority.file) as provider:
                    for _ in range(4):
                        assert await answered(provider, whole=True) == "Hi"
                    addresses.pop()  # the one that works
                    error = await trouble(base_url, ca_file=authority.file)
    assert error.message == "The provider acme cannot be reached."


# --- Authorities ---


@both_ways
async def test_an_authority_of_ones_own(authority: Authority, whole: bool) -> None:
    async with FakeOpenAI(tls=authority.server) as fake:
        async with provider_at(fake.base_url, ca_file=authority.file) as provider:
            assert await answered(provider, whole=whole) == "You said: Hi"
        error = await trouble(fake.base_url)
        assert error.message == "The provider acme has a certificate that is not trusted here."
        assert len(fake.calls) == 1


@both_ways
@pytest.mark.parametrize("secured", [False, True], ids=["http", "https"])
async def test_a_proxy_that_speaks_tls(authority: Authority, secured: bool, whole: bool) -> None:
    async with (
        FakeOpenAI(tls=authority.server if secured else None) as fake,
        FakeProxy(tls=authority.server, credentials=f"{USER}:{PASSWORD}") as proxy,
    ):
        settings: dict[str, Any] = {"proxy_username": USER, "proxy_password": {"env": "PROXY_PASSWORD"}}
        async with provider_at(
            fake.base_url, proxy=proxy.url, ca_file=authority.file, **settings
        ) as provider:
            assert await answered(provider, whole=whole) == "You said: Hi"
        assert len(proxy.asked) == 1


async def test_a_proxy_that_is_not_trusted(authority: Authority, stranger: str) -> None:
    async with FakeProxy(tls=authority.server) as proxy:
        error = await trouble("https://api.example.com/v1", proxy=proxy.url, ca_file=stranger)
    assert error.message == "The proxy of the provider acme has a certificate that is not trusted here."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "FileNotFoundError"),
        ("", "holds no certificates in PEM"),
        ("x", "holds no certificates in PEM"),
    ],
)
def test_a_file_without_authorities_is_refused_at_the_start(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        made("https://api.example.com", ca_file=str(path))
    assert caught.value.message == f"providers.acme.ca_file: cannot read {str(path)!r}: {reason}"


# --- Paths and headers ---

AZURE = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"


async def test_classic_azure(fake: FakeOpenAI) -> None:
    base_url = f"{fake.url}/openai/deployments/gpt-4o?api-version=2024-10-21"
    fake.replies = [refuse(401, f"Access denied for {KEY}"), refuse(400, f"not with {KEY}")]
    async with provider_at(base_url, api_key_header="api-key") as provider:
        for _ in range(2):
            with contextlib.suppress(Exception):
                await answered(provider, whole=True)
    first, second = fake.calls
    assert (first.path, second.path) == (AZURE, AZURE)
    assert first.headers["api-key"] == KEY
    assert "authorization" not in first.headers


@pytest.mark.parametrize("header", [None, "api-key", "Authorization", "X-Key"])
async def test_the_key_is_redacted_whichever_header_carries_it(fake: FakeOpenAI, header: str | None) -> None:
    fake.reply = refuse(500, f"boom {KEY}")
    error = await trouble(fake.base_url, api_key_header=header)
    assert "boom [redacted]" in error.message
    headers = fake.calls[0].headers
    name = (header or "authorization").lower()
    assert headers[name] == (f"Bearer {KEY}" if name == "authorization" else KEY)


async def test_a_gateway_gets_secrets_of_its_own_which_nobody_is_shown(fake: FakeOpenAI) -> None:
    fake.reply = refuse(500, "it was gatewaysecret")
    async with provider_at(
        fake.base_url,
        {"GATEWAY": "Bearer gatewaysecret"},
        secret_headers={"cf-aig-authorization": {"env": "GATEWAY"}},
    ) as provider:
        with pytest.raises(ProviderError) as caught:
            await answered(provider, whole=True)
    assert fake.calls[0].headers["cf-aig-authorization"] == "Bearer gatewaysecret"
    assert fake.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert "it was [redacted]" in caught.value.message


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/messages"])
async def test_anthropic_with_and_without_its_version(path: str) -> None:
    async with FakeAnthropic() as fake:
        async with provider_at(f"{fake.url}{path}", kind="anthropic") as provider:
            assert await answered(provider, whole=True) == "You said: Hi"
        assert fake.calls[0].path == "/v1/messages"
        assert fake.calls[0].headers["x-api-key"] == KEY


async def test_anthropic_by_a_bearer() -> None:
    async with FakeAnthropic() as fake:
        async with provider_at(fake.url, kind="anthropic", api_key_header="authorization") as provider:
            assert await answered(provider, whole=True) == "You said: Hi"
        assert fake.calls[0].headers["authorization"] == f"Bearer {KEY}"
        assert "x-api-key" not in fake.calls[0].headers


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
async def test_openai_with_and_without_its_version(fake: FakeOpenAI, path: str) -> None:
    async with provider_at(f"{fake.url}{path}") as provider:
        assert await answered(provider, whole=True) == "You said: Hi"
    assert fake.calls[0].path == "/v1/chat/completions"
    assert json.loads(fake.calls[0].raw)["model"] == "gpt-x"


async def test_what_else_stream_options_say_goes_on(fake: FakeOpenAI) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    async with running(openai_provider(fake.base_url)) as server:
        assert (await server.chat(stream=True, stream_options=options)).status_code == 200
    assert fake.calls[0].body["stream_options"] == options
