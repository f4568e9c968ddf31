"""Where APIs begin, and which proxy leads there: tables."""

from __future__ import annotations

import pytest
from yarl import URL

from dub5.settings.addresses import (
    Proxy,
    anthropic_root,
    basic,
    is_left_out,
    is_secret,
    named_proxy,
    openai_root,
    proxy_from,
)

API = URL("https://api.example.com/v1")
GEMINI = "https://generativelanguage.googleapis.com"
VERTEX = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1"
BEDROCK = "https://bedrock-runtime.us-west-2.amazonaws.com"

NATIVE = [
    (GEMINI, "/v1beta/openai"),
    (f"{GEMINI}/v1beta", "/v1beta/openai"),
    (f"{GEMINI}/v1beta/models/gemini-3:generateContent", "/v1beta/openai"),
    ("https://gemini.example.com/v1beta/models/gemini-3:streamGenerateContent", "/v1beta/openai"),
    (VERTEX, "/endpoints/openapi"),
    ("https://aiplatform.googleapis.com", "/endpoints/openapi"),
    (f"{VERTEX}/publishers/anthropic/models/claude:rawPredict", "/endpoints/openapi"),
    (BEDROCK, "/openai/v1"),
    (f"{BEDROCK}/model/m/invoke", "/openai/v1"),
    (f"{BEDROCK.upper()}/model/m/converse", "/openai/v1"),
    ("http://localhost:11434/api", ":11434/v1"),
    ("http://ollama:11434/api/generate", ":11434/v1"),
    ("http://host/api/chat/", ":11434/v1"),
    ("https://api.cohere.com/v2", "/compatibility/v1"),
    ("https://w.example.com/serving-endpoints/m/invocations", "/serving-endpoints"),
]
"""Addresses of APIs that are neither OpenAI's nor Anthropic's, and a part of what is to be written instead."""


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/", "https://api.openai.com/v1/chat/completions"),
        ("http://vllm.models:8000", "http://vllm.models:8000/v1/chat/completions"),
        ("http://[fd00::1]:8000//", "http://[fd00::1]:8000/v1/chat/completions"),
        ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1/chat/completions"),
        ("https://host/api/v3", "https://host/api/v3/chat/completions"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/chat/completions"),
        ("https://api.perplexity.ai/chat/completions", "https://api.perplexity.ai/chat/completions"),
        ("https://host/v1/chat/completions/", "https://host/v1/chat/completions"),
        ("https://r.openai.azure.com/openai/v1/", "https://r.openai.azure.com/openai/v1/chat/completions"),
        (
            "https://r.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/d/?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
        ("HTTPS://API.OpenAI.com", "https://api.openai.com/v1/chat/completions"),
        ("Http://vllm:8000/v1", "http://vllm:8000/v1/chat/completions"),
        ("http://chat.example.com:3000/api", "http://chat.example.com:3000/api/chat/completions"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
        ("http://localhost:11434/v1", "http://localhost:11434/v1/chat/completions"),
        ("http://localhost:11434", "http://localhost:11434/v1/chat/completions"),
        (f"{GEMINI}/v1beta/openai", f"{GEMINI}/v1beta/openai/chat/completions"),
        (f"{GEMINI}/v1beta/openai/chat/completions", f"{GEMINI}/v1beta/openai/chat/completions"),
        (f"{VERTEX}/endpoints/openapi", f"{VERTEX}/endpoints/openapi/chat/completions"),
        (f"{VERTEX}/endpoints/openapi/chat/completions", f"{VERTEX}/endpoints/openapi/chat/completions"),
        (f"{VERTEX}/endpoints/1234/", f"{VERTEX}/endpoints/1234/chat/completions"),
        (f"{BEDROCK}/openai/v1", f"{BEDROCK}/openai/v1/chat/completions"),
        ("https://api.cohere.ai/compatibility/v1", "https://api.cohere.ai/compatibility/v1/chat/completions"),
        (
            "https://w.example.com/serving-endpoints",
            "https://w.example.com/serving-endpoints/chat/completions",
        ),
        ("https://host?api-version=1&x=a%2Fb", "https://host/v1/chat/completions?api-version=1&x=a/b"),
        ("https://host/models?api-version=1", "https://host/models/chat/completions?api-version=1"),
    ],
)
def test_where_chat_completions_are(base_url: str, address: str) -> None:
    assert openai_root(base_url).at("/chat/completions") == URL(address)


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1/messages"),
        ("https://host/anthropic", "https://host/anthropic/v1/messages"),
        ("https://host/anthropic/v1/", "https://host/anthropic/v1/messages"),
        ("https://host/v2", "https://host/v2/messages"),
        ("http://localhost:4000/v1x", "http://localhost:4000/v1x/v1/messages"),
    ],
)
def test_where_messages_are(base_url: str, address: str) -> None:
    assert anthropic_root(base_url).at("/messages") == URL(address)


UNUSABLE = [
    ("", "http:// or https://"),
    ("api.openai.com/v1", "http:// or https://"),
    ("ftp://host", "http:// or https://"),
    ("http:///v1", "http:// or https://"),
    ("https://user:hidden@host/v1", "never inline"),
    ("https://hidden@host/v1", "never inline"),
    ("https://us@er:hidden@host/v1", "never inline"),
    ("https://host/v1#hidden", "fragment"),
    ("https://host:99999/v1", "port"),
    ("https://host:0/v1", "port"),
    ("https://host:x/v1", "port"),
    ("https://[::1/v1", "port"),
    ("https://:443/v1", "port"),
    ("https://my host/v1", "blanks"),
    ("https://host/v1\n", "blanks"),
    ("https://${HOST}/v1", "no name"),
    ("https://a,b/v1", "no name"),
    ("https://a..b/v1", "no name"),
    (f"https://{'a' * 64}.com/v1", "no name"),
]


@pytest.mark.parametrize(
    ("base_url", "words"),
    [
        *UNUSABLE,
        *NATIVE,
        ("https://host/v1/messages", "kind: anthropic"),
        ("https://host/v1/responses", "leave /responses out"),
        ("https://host/v1/embeddings", "leave /embeddings out"),
        ("https://host/v1/completions", "leave /completions out"),
        ("https://r.openai.azure.com", "/openai/v1"),
        ("https://r.openai.azure.com/openai/deployments/d", "api-version"),
        ("https://r.openai.azure.com/openai/deployments/d?x=1", "api-version"),
        ("https://host/v1?api-key=hidden", "api_key_header"),
        ("https://host/v1?key=hidden", "api_key_header"),
        ("https://host/v1?x=sk-proj-hidden12345678", "api_key_header"),
    ],
)
def test_what_cannot_be_openais(base_url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        openai_root(base_url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "words"),
    [
        *UNUSABLE,
        *NATIVE,
        ("https://host/v1/chat/completions", "kind: openai"),
        ("https://host/v1/responses", "kind: openai"),
        ("https://host?beta=true", "query"),
        ("https://host/v1?", "query"),
    ],
)
def test_what_cannot_be_anthropics(base_url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        anthropic_root(base_url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "target", "proxy"),
    [
        ({}, "https://a", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a", "http://p:1"),
        ({"https_proxy": "http://p:1"}, "https://a", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://a", "http://p:1"),
        ({"http_proxy": "p:1"}, "http://a", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://a", None),
        ({"HTTP_PROXY": " http://p:1/ "}, "http://a", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "http://a", "http://p:1"),
        ({"all_proxy": "https://p"}, "https://a", "https://p"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://p:1"}, "https://a", "http://p:1"),
        ({"ALL_PROXY": "http://all:1", "HTTP_PROXY": ""}, "http://a", "http://all:1"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:1"}, "https://a", "http://lower:1"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": ""}, "https://a", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b"}, "https://a", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a"}, "https://a", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a", "no_proxy": "b"}, "https://a", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "http://127.0.0.1:8000", "http://p:1"),
        ({"HTTP_PROXY": "socks5://p:1", "NO_PROXY": "a"}, "http://a", None),
    ],
)
def test_the_environments_proxy(environment: dict[str, str], target: str, proxy: str | None) -> None:
    expected = None if proxy is None else Proxy(URL(proxy))
    assert proxy_from(environment, URL(target)) == expected


def test_the_credentials_in_its_address_are_taken_out() -> None:
    proxy = proxy_from({"HTTPS_PROXY": "http://me:a%3Ab%40c@p:1"}, API)
    assert proxy == Proxy(URL("http://p:1"), basic("me", "a:b@c"))
    assert basic("me", "a:b@c") == "Basic bWU6YTpiQGM="
    assert "bWU6" not in repr(proxy)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("socks5://me:hidden@p:1", "socks5://, are not known here"),
        ("http://me:hidden@p:x", "port"),
        ("http://me:hidden@/", "host"),
        ("http://me:hidden@p:1/path", "no path"),
        ("http://me:hidden@p:1?hidden", "no path"),
        ("http://p p", "blanks"),
    ],
)
def test_a_proxy_that_cannot_be_one_is_named_by_its_variable(written: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        proxy_from({"ALL_PROXY": written}, API)
    assert str(caught.value).startswith("the environment variable ALL_PROXY: ")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("written", ["http://me:hidden@p:1", "me:hidden@p:1", "http://hidden@p"])
def test_a_configuration_holds_no_credentials_of_a_proxy(written: str) -> None:
    with pytest.raises(ValueError, match="proxy_password") as caught:
        named_proxy(written)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "target", "left_out"),
    [
        ("", "https://a.example.com", False),
        ("*", "https://a.example.com", True),
        ("b, *", "https://a.example.com", True),
        ("example.com", "https://example.com", True),
        ("example.com", "https://a.example.com", True),
        ("example.com", "https://anexample.com", False),
        ("example.com", "https://example.com.evil.net", False),
        (".example.com", "https://a.example.com", True),
        (".example.com", "https://example.com", True),
        ("*.example.com", "https://a.example.com", True),
        ("EXAMPLE.com", "https://a.Example.COM", True),
        ("example.com.", "https://example.com", True),
        ("example.com", "https://example.com.", True),
        ("a b,c\texample.com", "https://example.com", True),
        (",,", "https://example.com", False),
        (".", "https://example.com", False),
        ("example.com:443", "https://example.com", True),
        ("example.com:8443", "https://example.com", False),
        ("example.com:8443", "https://a.example.com:8443", True),
        ("https://example.com", "https://example.com", True),
        ("http://example.com", "https://example.com", False),
        ("all://example.com", "https://example.com", True),
        ("localhost", "http://localhost:11434", True),
        ("localhost", "http://127.0.0.1:11434", False),
        ("127.0.0.1", "http://127.0.0.1:11434", True),
        ("127.0.0.1:1", "http://127.0.0.1:11434", False),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.1.2.3/8", "http://10.9.9.9", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("10.0.0.0/8", "http://host.10.com", False),
        ("10.0.0.0/8:8000", "http://10.1.2.3:8000", True),
        ("::1", "http://[::1]:8000", True),
        ("[::1]", "http://[::1]:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("[::1]:8001", "http://[::1]:8000", False),
        ("fd00::/8", "http://[fd12::3]", True),
        ("fd00::/8", "http://10.0.0.1", False),
        ("münchen.de", "http://a.münchen.de", True),
        ("xn--mnchen-3ya.de", "http://münchen.de", True),
        ("svc,cluster.local", "http://vllm.models.svc:8000", True),
        ("svc,cluster.local", "http://vllm.models.svc.cluster.local:8000", True),
    ],
)
def test_who_is_reached_without_a_proxy(entries: str, target: str, left_out: bool) -> None:
    assert is_left_out(URL(target), entries) is left_out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "x"),
        ("api-key", "x"),
        ("x-api-key", "x"),
        ("X-Auth-Token", "x"),
        ("Ocp-Apim-Subscription-Key", "x"),
        ("Helicone-Auth", "x"),
        ("Cookie", "x"),
        ("x-goog-api-key", "x"),
        ("x-anything", "Bearer abcdef"),
        ("x-anything", "sk-ant-api03-abcdefgh"),
        ("x-anything", "eyJhbGciOiJIUzI1NiJ9.e30"),
    ],
)
def test_what_looks_like_a_secret(name: str, value: str) -> None:
    assert is_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OpenAI-Organization", "org-abcdefghijklmnop"),
        ("OpenAI-Project", "proj_abcdefghijklmnop"),
        ("anthropic-beta", "prompt-caching-2024-07-31"),
        ("HTTP-Referer", "https://chat.example.com"),
        ("X-Title", "Desk-keeper's task-basic"),
        ("Idempotency-Key", "x"),
        ("cf-aig-cache-key", "x"),
        ("x-max-tokens", "4096"),
        ("api-version", "2024-10-21"),
    ],
)
def test_what_does_not(name: str, value: str) -> None:
    assert not is_secret(name, value)
