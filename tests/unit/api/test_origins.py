"""Which hosts and origins are let in: tables of what browsers, proxies and attackers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.api.origins import Hosts, Origins, Verdict, is_foreign, is_preflight, preflight_headers

GOOD, MALFORMED, UNKNOWN = Verdict.GOOD, Verdict.MALFORMED, Verdict.UNKNOWN
OWN = "10.244.0.5"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:80",
        "localhost.",
        "a.localhost:1",
        "127.0.0.1",
        "127.9.9.9:65535",
        "[::1]",
        "[::1]:9000",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]:80",
        OWN,
        f"{OWN}:9000",
        f"[::ffff:{OWN}]:9000",
        "dub5",
        "dub5:8000",
        "DUB5.chat.svc.",
        "chat.example.com",
        "[fd00::5]:80",
        "[fd00:0::5]",
    ],
)
def test_names_that_no_stranger_can_have_are_served(host: str) -> None:
    hosts = Hosts(["dub5", "dub5.chat.svc", "*.example.com", "[fd00::5]"])
    assert hosts.judge(host.encode(), OWN) is GOOD


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notlocalhost",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0.0.0.0",
        "[::]",
        "10.244.0.6",
        "192.168.1.5:8000",
        "128.0.0.1",
        "example.com",
        "badexample.com",
        "dub5.evil.example",
        "xdub5",
        "[fd00::6]",
        "[1]",
        ".",
        "..localhost.x",
    ],
)
def test_others_are_not(host: str) -> None:
    assert Hosts(["dub5", "*.example.com", "fd00::5"]).judge(host.encode(), OWN) is UNKNOWN


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8000",
        "a b/c@d",
        "a b",
        "a/b",
        "me@localhost",
        "localhost:80:80",
        "localhost:x",
        "localhost, x",
        "localhost#",
        "localhost?x",
        "http://localhost",
        "[::1",
        "::1",
        "[localhost]",
        "localh\xf6st",
        "localhost:123456",
        "localhost\t",
        " localhost",
        "local\x00host",
        "%6cocalhost",
        "[::1]x",
    ],
)
@pytest.mark.parametrize("hosts", [Hosts(), Hosts([]), Hosts(["*"])], ids=["keys", "none", "any"])
def test_what_cannot_be_a_host_is_refused_whoever_may_come(hosts: Hosts, host: str) -> None:
    assert hosts.judge(host.encode("latin-1"), None) is MALFORMED


@pytest.mark.parametrize("hosts", [Hosts(), Hosts(["*"])], ids=["keys", "any"])
def test_any_name_is_served_where_keys_keep_strangers_out_or_it_is_meant(hosts: Hosts) -> None:
    assert hosts.judge(b"evil.example:80", None) is GOOD


@given(st.binary(max_size=80))
def test_no_bytes_break_it(host: bytes) -> None:
    assert Hosts(["*.example.com"]).judge(host, OWN) in Verdict


def page(method: str = "POST", host: str = "127.0.0.1:8000", **headers: str) -> bool:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return is_foreign(method, {"host": host, **named})


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("127.0.0.1:8000", {}),
        ("127.0.0.1:8000", {"origin": "http://127.0.0.1:8000"}),
        ("127.0.0.1:8000", {"origin": "http://127.0.0.1:8000", "sec_fetch_site": "same-origin"}),
        ("127.0.0.1:8000", {"sec_fetch_site": "none"}),
        ("Chat.example", {"origin": "https://chat.example"}),
        ("chat.example:443", {"origin": "https://chat.example"}),
        ("chat.example:80", {"origin": "http://chat.example"}),
        ("chat.example", {"origin": "https://chat.example", "sec_fetch_site": "same-origin"}),
    ],
)
def test_programs_and_the_services_own_page_are_not_foreign(host: str, headers: dict[str, str]) -> None:
    assert not page(host=host, **headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://localhost:8000"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:8000, https://evil.example"},
        {"origin": "http://127.0.0.1:8000.evil.example"},
        {"origin": "http://evil.example#127.0.0.1:8000"},
        {"origin": "app://127.0.0.1:8000"},
        {"origin": "127.0.0.1:8000"},
        {"origin": "chrome-extension://abcdef", "sec_fetch_site": "none"},
        {"origin": "https://evil.example", "sec_fetch_site": "same-origin"},
        {"origin": "http://127.0.0.1:8000", "sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "same-origin, cross-site"},
        {"sec_fetch_site": ""},
        {"sec_fetch_site": "Same-Origin"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"},
    ],
)
def test_all_other_pages_are(headers: dict[str, str]) -> None:
    assert page(**headers)


def test_a_link_is_followed_and_a_frame_or_a_subresource_is_not() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert not page("GET", **link)
    assert not page("HEAD", **link)
    for other in ({"sec_fetch_dest": "iframe"}, {"sec_fetch_mode": "no-cors"}, {"origin": "null"}):
        assert page("GET", **(link | other))


CHAT = "https://chat.example.com"


@pytest.mark.parametrize("allowed", [CHAT, "https://Chat.example.com", "https://chat.example.com:443"])
def test_an_origin_is_known_in_each_spelling_of_the_settings(allowed: str) -> None:
    headers = dict(Origins([allowed]).headers(CHAT) or ())
    assert headers[b"access-control-allow-origin"] == CHAT.encode()
    assert headers[b"access-control-allow-credentials"] == b"true"
    assert headers[b"vary"] == b"Origin"
    assert {b"cache-status", b"retry-after", b"x-request-id"} <= set(
        headers[b"access-control-expose-headers"].split(b", ")
    )


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "",
        "https://evil.example",
        "http://chat.example.com",
        f"{CHAT}:8443",
        f"{CHAT}.evil.example",
        "*",
    ],
)
def test_no_other_origin_gets_a_word(origin: str | None) -> None:
    assert Origins([CHAT]).headers(origin) is None
    assert Origins().headers(origin) is None


@pytest.mark.parametrize("allowed", [["*"], ["*", CHAT]])
def test_credentials_are_never_for_all(allowed: list[str]) -> None:
    headers = dict(Origins(allowed).headers("https://evil.example") or ())
    assert headers[b"access-control-allow-origin"] == b"*"
    assert b"access-control-allow-credentials" not in headers


def test_a_preflight_may_ask_for_any_header_and_for_a_private_network() -> None:
    names = "authorization,content-type,x-dub5-timeout,x-stainless-arch,x-stainless-os"
    asked = {"access-control-request-method": "POST", "access-control-request-headers": names}
    assert is_preflight("OPTIONS", asked)
    assert not is_preflight("OPTIONS", {})
    assert not is_preflight("POST", asked)
    given_ = dict(preflight_headers(asked))
    assert given_[b"access-control-allow-headers"] == names.encode()
    assert b"POST" in given_[b"access-control-allow-methods"]
    assert b"access-control-allow-private-network" not in given_
    private = dict(preflight_headers({**asked, "access-control-request-private-network": "true"}))
    assert private[b"access-control-allow-private-network"] == b"true"


@pytest.mark.parametrize("names", ["", "a\r\nset-cookie: b", "a" * 5000, "\xe4"])
def test_names_that_are_none_are_not_repeated(names: str) -> None:
    assert b"access-control-allow-headers" not in dict(
        preflight_headers({"access-control-request-headers": names})
    )
