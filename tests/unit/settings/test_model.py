"""What is a valid configuration: durations, sizes, and what crosses sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.errors import ConfigError
from dub5.settings.loader import convert
from dub5.settings.model import (
    Duration,
    RedisSettings,
    Settings,
    Size,
    Source,
    is_loopback,
    read_secret,
    validate,
)

Json = dict[str, Any]

_DEMO = {"demo": {"kind": "simulated"}}


def refusal(written: Json) -> str:
    with pytest.raises(ConfigError) as caught:
        convert(written)
    return caught.value.message


class TestDuration:
    @pytest.mark.parametrize(
        ("written", "seconds"),
        [
            ("300ms", 0.3),
            ("10s", 10),
            ("1.5m", 90),
            ("1h", 3600),
            ("2d", 172800),
            ("0s", 0),
            (7, 7),
            (0.5, 0.5),
        ],
    )
    def test_forms(self, written: object, seconds: float) -> None:
        assert Duration.parse(written) == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "written",
        ["", "10", "s", "-1s", "1 s", "1s ", "1w", "1s1s", "1e3s", "٣s", True, None, ["1s"], "x" * 500],
    )
    def test_not_one(self, written: object) -> None:
        with pytest.raises(ValueError, match="is not a duration; write for example 300ms") as caught:
            Duration.parse(written)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("written", [-1, "3651d", float("inf"), float("nan"), 10**400])
    def test_out_of_range(self, written: object) -> None:
        with pytest.raises(ValueError, match="outside 0s to 10 years"):
            Duration.parse(written)

    @pytest.mark.parametrize("written", ["0s", "1ms", "300ms", "1500ms", "10s", "90s", "5m", "36h", "1d"])
    def test_written_as_people_do(self, written: str) -> None:
        assert Duration.parse(written).written() == written

    @given(st.floats(0, Duration.LIMIT, exclude_max=True))
    def test_reads_what_it_writes(self, seconds: float) -> None:
        milliseconds = round(seconds * 1000) / 1000
        if milliseconds < Duration.LIMIT:
            assert Duration.parse(Duration(milliseconds).written()) == pytest.approx(milliseconds)


class TestSize:
    @pytest.mark.parametrize(
        ("written", "size"),
        [("1MiB", 2**20), ("256 KiB", 2**18), ("2GB", 2 * 10**9), ("10B", 10), ("10", 10), (4096, 4096)],
    )
    def test_forms(self, written: object, size: int) -> None:
        assert Size.parse(written) == size

    @pytest.mark.parametrize(
        "written", ["", "MiB", "-1", -1, "1.5MiB", "1  MiB", "1mib", "1TiB", 1.0, True, 10**400, "٣", None]
    )
    def test_not_one(self, written: object) -> None:
        with pytest.raises(ValueError, match="is not a size; write for example 256KiB") as caught:
            Size.parse(written)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("written", [2**50 + 1, "999999999999GB"])
    def test_out_of_range(self, written: object) -> None:
        with pytest.raises(ValueError, match="more than 1 PiB"):
            Size.parse(written)

    @given(st.integers(0, 2**50))
    def test_reads_what_it_writes(self, size: int) -> None:
        assert Size.parse(Size(size).written()) == size


class TestWithNothingConfigured:
    def test_it_is_valid(self) -> None:
        validate(Settings())

    def test_serves_loopback_only_from_the_simulated_provider(self) -> None:
        settings = Settings()
        assert is_loopback(settings.server.host)
        assert settings.models["demo"].routes == ["demo/simulated"]
        assert settings.redis is None

    def test_three_personalities_use_the_first_model(self) -> None:
        settings = Settings()
        assert [settings.model_of(each) for each in settings.personalities.values()] == ["demo"] * 3

    def test_the_default_class_needs_no_listing(self) -> None:
        assert Settings().cache.named("default").ttl == 300


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)]
    + [
        (host, False)
        for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "", "127.0.0.1.example.com")
    ],
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


class TestWhoMayCall:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "host.example.com"])
    def test_no_keys_beyond_loopback_is_refused_with_the_way_out(self, host: str) -> None:
        assert refusal({"server": {"host": host}}) == (
            f"server.host: refusing to listen on {host} without keys. "
            "Set auth.keys, or auth.anonymous: true to serve everybody who can reach it."
        )

    @pytest.mark.parametrize("auth", [{"anonymous": True}, {"keys": {"file": "keys.yaml"}}])
    def test_either_way_out_works(self, auth: Json) -> None:
        convert({"server": {"host": "0.0.0.0"}, "auth": auth})

    def test_keys_and_everybody_exclude_each_other(self) -> None:
        assert refusal({"auth": {"keys": {"file": "k"}, "anonymous": True}}).startswith(
            "auth.anonymous: leave it out"
        )


class TestAcrossSections:
    @pytest.mark.parametrize(
        ("written", "message"),
        [
            (
                {"models": {"m": {"routes": ["other/x"]}}, "providers": _DEMO},
                "models.m.routes: `other` is not one of providers: demo",
            ),
            (
                {"models": {"m": {"routes": ["demo"]}}},
                "models.m.routes: `demo` must be written provider/model",
            ),
            (
                {"models": {"m": {"routes": ["demo/"]}}},
                "models.m.routes: `demo/` must be written provider/model",
            ),
            ({"models": {}}, "models: name at least one"),
            (
                {"models": {"m": {"routes": ["demo/*"]}}},
                "models.m.routes: `demo/*` stands for many; the name needs a `*` as well, such as `*`",
            ),
            (
                {"models": {"*": {"routes": ["demo/x"]}}},
                "models.*.routes: a name with a `*` needs a route with one, such as provider/*",
            ),
            (
                {"models": {"*": {"routes": ["demo/*x*"]}}},
                "models.*: one `*` in the name and one in a route, not more",
            ),
            (
                {"models": {"*/*": {"routes": ["demo/*"]}}},
                "models.*/*: one `*` in the name and one in a route, not more",
            ),
            (
                {"models": {"*": {"routes": ["*/x"]}}},
                "models.*.routes: `*` is not one of providers: demo",
            ),
            (
                {
                    "models": {"m": {"routes": ["demo/x"]}, "*": {"routes": ["demo/*"]}},
                    "personalities": {"p": {"model": "*"}},
                },
                "personalities.p.model: `*` is not one of models: m",
            ),
            (
                {"providers": {"own": {"kind": "openai"}}},
                "models: missing; say what the providers have, as {NAME: {routes: [provider/model]}}",
            ),
            (
                {"models": {"m": {"routes": ["demo/x"], "cache_class": "warm"}}},
                "models.m.cache_class: `warm` is not one of cache.classes: none are defined",
            ),
            (
                {"personalities": {"p": {"model": "big"}}},
                "personalities.p.model: `big` is not one of models: demo",
            ),
            (
                {"personalities": {"p": {"cache_class": "warm"}}, "cache": {"classes": {"cold": {}}}},
                "personalities.p.cache_class: `warm` is not one of cache.classes: cold",
            ),
            (
                {"personalities": {"demo": {}}},
                "personalities.demo: a model has the same name; rename one of them",
            ),
            (
                {"personalities": {"p": {"messages": [{"role": "user"}, {"content": "hi"}]}}},
                "personalities.p.messages[1].role: missing",
            ),
            (
                {"redis": {"url": "redis://cache", "timeout": "101ms"}},
                "redis.timeout: must be more than 0 and at most 100ms, since every request may wait for it",
            ),
            (
                {"redis": {"url": "redis://cache", "timeout": 0}},
                "redis.timeout: must be more than 0 and at most 100ms, since every request may wait for it",
            ),
            (
                {"providers": {"demo": {"kind": "openai", "base_url": "api.openai.com/v1"}}},
                "providers.demo.base_url: must start with http:// or https://",
            ),
            (
                {"providers": {"demo": {"kind": "anthropic", "api_key": {}}}},
                "providers.demo.api_key: set exactly one of env and file",
            ),
            ({"auth": {"keys": {"env": "A", "file": "b"}}}, "auth.keys: set exactly one of env and file"),
        ],
    )
    def test_refused_with_the_key_and_what_is_wrong(self, written: Json, message: str) -> None:
        assert refusal(written) == message


def test_sampling_holds_what_is_set_and_zero_is_set() -> None:
    personality = convert({"personalities": {"p": {"temperature": 0, "stop": ["END"]}}}).personalities["p"]
    assert personality.sampling() == {"temperature": 0, "stop": ["END"]}


class TestSecrets:
    def test_from_the_environment_without_white_space(self) -> None:
        assert read_secret("x", Source(env="KEY"), {"KEY": " s3cret\n"}) == "s3cret"

    def test_from_a_file_without_white_space(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text("s3cret\n")
        assert read_secret("x", Source(file=str(path)), {}) == "s3cret"

    @pytest.mark.parametrize("environment", [{}, {"KEY": ""}, {"KEY": " \n"}])
    def test_missing_in_the_environment(self, environment: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match=r"p\.api_key: the environment variable KEY is not set"):
            read_secret("p.api_key", Source(env="KEY"), environment)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"p\.api_key: cannot read .*nowhere'?: FileNotFoundError"):
            read_secret("p.api_key", Source(file=str(tmp_path / "nowhere")), {})

    def test_an_empty_file_holds_no_secret(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text(" \n")
        with pytest.raises(ConfigError, match=r"p\.api_key: the file '.*key' is empty"):
            read_secret("p.api_key", Source(file=str(path)), {})

    def test_not_text_and_nothing_of_it_is_shown(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_bytes(b"s3cret\xff")
        with pytest.raises(ConfigError, match="UnicodeDecodeError") as caught:
            read_secret("p.api_key", Source(file=str(path)), {})
        assert "s3cret" not in caught.value.message

    def test_a_path_that_cannot_be_one(self) -> None:
        with pytest.raises(ConfigError, match="cannot read"):
            read_secret("p.api_key", Source(file="a\0b"), {})

    def test_redis_takes_one_from_either_source(self) -> None:
        redis = convert({"redis": {"url": "rediss://cache", "password": {"env": "PW"}}}).redis
        assert isinstance(redis, RedisSettings)
        assert redis.password == Source(env="PW")


def openai(**written: Any) -> Json:
    return {"providers": {"demo": {"kind": "openai", **written}}}


def test_a_short_total_goes_with_the_other_defaults() -> None:
    convert(openai(timeouts={"total": "2s"}))
    convert(openai(timeouts={"first_token": "1m", "total": "1m"}))


def test_a_scheme_may_be_written_in_capitals() -> None:
    convert(openai(base_url="HTTPS://API.OpenAI.com/v1"))


class TestWayToAProvider:
    @pytest.mark.parametrize(
        ("written", "message"),
        [
            (
                openai(base_url="https://key:hidden@api.openai.com/v1"),
                "providers.demo.base_url: secrets are never inline; write api_key: {env: NAME} or {file: PATH}",
            ),
            (
                {
                    "providers": {
                        "demo": {"kind": "anthropic", "base_url": "https://host/v1/chat/completions"}
                    }
                },
                "providers.demo.base_url: this is an address of OpenAI's API; write kind: openai",
            ),
            (
                openai(base_url="https://generativelanguage.googleapis.com/v1beta"),
                (
                    "providers.demo.base_url: this is Gemini's own API; the one like OpenAI's is at "
                    "https://generativelanguage.googleapis.com/v1beta/openai, with kind: openai"
                ),
            ),
            (
                openai(quirks={"m": {"drop": ["top_p", "messages"]}}),
                "providers.demo.quirks.m.drop: no request can do without `messages`",
            ),
            (
                openai(quirks={"m": {"refuse": ["stream"]}}),
                "providers.demo.quirks.m.refuse: no request can do without `stream`",
            ),
            (
                openai(quirks={"m": {"rename": {"model": "deployment"}}}),
                "providers.demo.quirks.m.rename: no request can do without `model`",
            ),
            (
                openai(timeouts={"first_token": "61s", "total": "1m"}),
                "providers.demo.timeouts.first_token: longer than `total`, and would never pass",
            ),
            (
                openai(timeouts={"between_tokens": "20m"}),
                "providers.demo.timeouts.between_tokens: longer than `total`, and would never pass",
            ),
            (
                openai(headers={"Authorization": "Bearer hidden"}),
                (
                    "providers.demo.headers.Authorization: secrets are never inline; write api_key, or "
                    "secret_headers: {Authorization: {env: NAME}}"
                ),
            ),
            (
                openai(headers={"x-gateway": "sk-hidden-hidden-hidden"}),
                (
                    "providers.demo.headers.x-gateway: secrets are never inline; write api_key, or "
                    "secret_headers: {x-gateway: {env: NAME}}"
                ),
            ),
            (
                openai(secret_headers={"x-gateway": "hidden"}),
                "providers.demo.secret_headers.x-gateway: secrets are never inline; write {env: NAME} or {file: PATH}",
            ),
            (
                openai(headers={"Content-Type": "text/plain"}),
                "providers.demo.headers.Content-Type: this header is the service's own",
            ),
            (
                openai(headers={"Transfer-Encoding": "chunked"}),
                "providers.demo.headers.Transfer-Encoding: this header is the service's own",
            ),
            (
                openai(api_key_header="content-length"),
                "providers.demo.api_key_header: this header is the service's own",
            ),
            (
                openai(headers={"two words": "x"}),
                "providers.demo.headers.two words: `two words` cannot be the name of a header",
            ),
            (openai(headers={"": "x"}), "providers.demo.headers.: `` cannot be the name of a header"),
            (
                openai(api_key_header="api-key: x"),
                "providers.demo.api_key_header: `api-key: x` cannot be the name of a header",
            ),
            (openai(headers={"x-name": "Zoë"}), "providers.demo.headers.x-name: must be printable ASCII"),
            (
                openai(headers={"x-name": "a\r\nb: c"}),
                "providers.demo.headers.x-name: must be printable ASCII",
            ),
            (
                openai(headers={"x-name": "a", "X-Name": "b"}),
                "providers.demo.headers.X-Name: this header is there already; leave one of them out",
            ),
            (
                openai(
                    api_key={"env": "K"}, api_key_header="API-Key", secret_headers={"api-key": {"env": "K"}}
                ),
                "providers.demo.secret_headers.api-key: this header is there already; leave one of them out",
            ),
            (
                openai(secret_headers={"x-gateway": {}}),
                "providers.demo.secret_headers.x-gateway: set exactly one of env and file",
            ),
            (
                openai(proxy="http://me:hidden@proxy:3128"),
                (
                    "providers.demo.proxy: secrets are never inline; write proxy_username and proxy_password: "
                    "{env: NAME} or {file: PATH}"
                ),
            ),
            (
                openai(proxy="socks5://proxy:1080"),
                (
                    "providers.demo.proxy: must be a proxy at http:// or https://; others, such as socks5://, are not "
                    "known here"
                ),
            ),
            (
                openai(proxy="none", proxy_username="me", proxy_password={"env": "P"}),
                "providers.demo.proxy_username: leave it out where there is no proxy",
            ),
            (
                openai(proxy_password={"env": "P"}),
                "providers.demo: set both of proxy_username and proxy_password, or neither",
            ),
            (
                openai(proxy_username="a:b", proxy_password={"env": "P"}),
                "providers.demo.proxy_username: must be printable, without a colon",
            ),
            (openai(api_key={"env": ""}), "providers.demo.api_key: names nothing"),
            ({"server": {"keep_alive": 0}}, "server.keep_alive: must be more than 0"),
            ({"server": {"max_stream": "0s"}}, "server.max_stream: must be more than 0"),
            ({"server": {"max_arriving": 0}}, "server.max_arriving: must be more than 0"),
            (
                {"redis": {"url": "redis://cache?db=5"}},
                "redis.url: ends with the number of the database; nothing behind a `?` or `#` would be read",
            ),
            (
                {"server": {"port": 9000}},
                "server.operations_port: 9000 is server.port already; take another one",
            ),
            (openai(timeouts={"connect": "0s"}), "providers.demo.timeouts.connect: must be more than 0"),
            (openai(timeouts={"total": 0}), "providers.demo.timeouts.total: must be more than 0"),
        ],
    )
    def test_what_cannot_work_is_refused(self, written: Json, message: str) -> None:
        assert refusal(written) == message
        assert "hidden" not in message

    @pytest.mark.parametrize(
        "origin",
        [
            "chat.example.com",
            "https://",
            "https://a b",
            "https://*.example.com",
            "https://a.example/",
            "x@a",
            "NULL",
        ],
    )
    def test_what_is_no_origin_is_refused(self, origin: str) -> None:
        reported = refusal({"server": {"allowed_origins": ["https://a.example", origin]}})
        assert reported.startswith(f"server.allowed_origins[1]: `{origin}` is not an origin")

    def test_origins_that_any_page_has_are_refused(self) -> None:
        for origin, why in (("null", "what any page can make"), ("*", "without keys")):
            reported = refusal({"server": {"allowed_origins": [origin]}})
            assert reported.startswith("server.allowed_origins")
            assert why in reported

    @pytest.mark.parametrize(
        "host", ["", "a b", "http://a", "a/b", "*.", "a.*", "*a", "[::1]:80", "me@a", "a:1"]
    )
    def test_what_is_no_host_is_refused(self, host: str) -> None:
        assert refusal({"server": {"allowed_hosts": [host]}}).startswith("server.allowed_hosts[0]: ")

    @pytest.mark.parametrize(
        "server",
        [
            {
                "allowed_origins": [
                    "https://a.example",
                    "http://[::1]:3000",
                    "app://obsidian.md",
                    "tauri://localhost",
                ]
            },
            {
                "allowed_hosts": [
                    "a.example",
                    "*.a.example",
                    "*",
                    "10.0.0.5",
                    "fd00::5",
                    "[fd00::5]",
                    "my_service",
                ]
            },
        ],
    )
    def test_hosts_and_origins_have_many_forms(self, server: Json) -> None:
        convert({"server": server})

    @pytest.mark.parametrize("auth", [{"anonymous": True}, {"keys": {"file": "keys.yaml"}}])
    def test_all_origins_may_be_allowed_where_that_is_meant(self, auth: Json) -> None:
        convert({"server": {"allowed_origins": ["*"]}, "auth": auth})

    @pytest.mark.parametrize(
        "written",
        [
            {"proxy": "none"},
            {"proxy": "NONE"},
            {"proxy": ""},
            {"proxy": "proxy:3128"},
            {"proxy": "https://proxy.example:3129/", "proxy_username": "me", "proxy_password": {"file": "p"}},
            {"secret_headers": {"authorization": {"env": "RAW"}}},
            {"headers": {"openai-organization": "org-1", "host": "internal", "user-agent": "x"}},
            {"api_key": {"env": "K"}, "api_key_header": "api-key"},
        ],
    )
    def test_what_can(self, written: Json) -> None:
        convert({**openai(**written), "models": {"m": {"routes": ["demo/x"]}}})


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("redis://cache", True),
        ("redis://cache:6379/0", True),
        ("redis://user@cache:6379/15", True),
        ("rediss://[fd00::1]:6380/1", True),
        ("redis+cluster://a:7000,b:7001,c", True),
        ("redis+sentinel://a,b:26380/mymaster/0", True),
        ("redis+sentinel://a/mymaster", True),
        ("redis+sentinel://a/1", True),
        ("redis://", True),
        ("localhost", False),
        ("localhost:6379", False),
        ("redis", False),
        ("http://cache", False),
        ("redis://cache:99999/0", False),
        ("redis://cache:0", False),
        ("redis://cache:port", False),
        ("redis://cache/first", False),
        ("redis://[::1", False),
        ("redis://my cache", False),
        ("redis+sentinel://a/mymaster/first", False),
        ("redis+cluster://a/0", True),
        ("redis+cluster://a/3", False),
        ("redis+sentinel://a", False),
        ("redis+sentinel://a/mymaster/0/0", False),
        ("redis://a,b", False),
        ("redis://a/b/0", False),
    ],
)
def test_addresses_of_redis(url: str, good: bool) -> None:
    if good:
        convert({"redis": {"url": url}})
    else:
        assert refusal({"redis": {"url": url}}).startswith(
            "redis.url: not an address of Redis; write for example"
        )
