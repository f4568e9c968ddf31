"""What is the operator's goes, what the caller needs stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.providers.redaction import MOST_SHOWN, Redactor

KEY = "planted4Zx9Qw7"  # unlike any known kind of key
LONG_KEY = "sk-proj-Planted/4Zx9+Qw7abcDEF0123456789"
redact = Redactor(KEY, hosts=["vllm.acme.example", "proxy-of-acme"])

THEIRS = {
    KEY: f"It was {KEY}, wasn't it?",
    "sk-pro": "Key sk-pro-****9f2 is over its limit",
    "abc123def456": "Authorization: Bearer abc123def456",
    "dXNlcjpwdzEy": "Authorization: Basic dXNlcjpwdzEy==",
    "0123456789abcdef": "x-api-key: 0123456789abcdef",
    "Zz9": "Incorrect API key: plan*****Zz9",
    "AIzaSyA-0123456789": "Bad key AIzaSyA-0123456789abcdefghijklmnopqrstuv",
    "org-123": "Rate limit reached for gpt-4o in organization org-123 on tokens per min (TPM): Limit 30000",
    "org-AbCdEfGhIjKlMnOpQrStUvWx": "No access for org-AbCdEfGhIjKlMnOpQrStUvWx.",
    "org_02abc": "Limit of org_02abc is reached",
    "team-77": "team-77 is blocked, tenant 5551234 too",
    "5551234": "team-77 is blocked, tenant 5551234 too",
    "org_01hxyz9": "Rate limit reached in organization `org_01hxyz9` service tier `on_demand`",
    "proj_abc": "Project `proj_abc` does not have access to model `gpt-5`",
    "2a1b3c4d": "rate limit for your organization (2a1b3c4d-1111-2222-3333-444455556666) of 40,000 tokens",
    "acme-team": "Team 'acme-team' has used all of its credits",
    "123456789012": "User: arn:aws:sts::123456789012:assumed-role/r is not authorized",
    "987654321": "Consumer 'project_number:987654321' has been suspended.",
    "acme-inc": "Model not found, inaccessible, and/or not deployed: accounts/acme-inc/models/ours",
    "acme-prod": "Please submit a quota increase request for project acme-prod.",
    "esgzqz9": "Your account org-f5d4c4f0a2 <ak-esgzqz9z8kx11j1h1111> reached max concurrency: 1",
    "my-proj": "projects/my-proj/locations/europe-west1 was not found",
    "boss": "Ask boss.man+ai@acme-corp.co.uk for more",
    "req_0a1b2c": "Please include the request ID req_0a1b2c in your email",
    "20250101abcdef": "Upstream is busy (request id: 20250101abcdef)",
    "8f3c2d1e": "trace_id=8f3c2d1e0a",
    "vllm.acme.example": "see https://vllm.acme.example/v1/models",
    "VLLM.acme": "VLLM.acme.example:8000 is away",
    "proxy-of-acme": "tunnel through proxy-of-acme:3128 failed",
    "eu.vllm": "eu.vllm.acme.example is away",
    "//vllm:8000": 'Post "http://vllm:8000/v1/chat/completions": refused',
    "user:pw": "via http://user:pw@proxy.example.com:3128",
    "vllm-0": "Cannot connect to host vllm-0.vllm.svc:8000 ssl:default",
    "ip-10-1": "ip-10-1-2-3.eu-west-1.compute.internal did not answer",
    "vllm-svc": "HTTPConnectionPool(host='vllm-svc', port=8000): Max retries exceeded",
    "10.96.0.10": "dial tcp: lookup vllm on 10.96.0.10:53: no such host",
    "lookup vllm": "dial tcp: lookup vllm on 10.96.0.10:53: no such host",
    "10.2.3.4": "[Connect call failed ('10.2.3.4', 8000)]",
    "fd00::1": "connect to [fd00::1]:8000 failed",
    "7d9f8b6c4d": "pod vllm-deployment-7d9f8b6c4d-x2x7q was evicted",
    "localhost": "nothing at localhost:11434",
    "site-packages": "Oops\nTraceback (most recent call last):\n  File '/usr/lib/site-packages/vllm/x.py'",
}  # fmt: skip

OURS_TO_SEE = [
    "The key parameters are missing",
    "This model's maximum context length is 8192 tokens. However, you requested 10001 tokens",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "messages.1.content.0.type: Input should be 'text', 'image' or 'tool_result'",
    "messages[3].tool_calls[0].function.arguments: Expecting value: line 1 column 2 (char 1)",
    "An assistant message with 'tool_calls' must be followed by tool messages: call_AbCdEf0123456789AbCdEf01",
    "Previous response with id 'resp_67890abcdef0123456789abcdef01234' not found.",
    "`tool_use` ids were found without `tool_result` blocks: toolu_01A09q90qw90lq917835lq9.",
    "model claude-3-5-sonnet-20241022 and meta-llama/Llama-3.1-405B-Instruct-Turbo are busy at 12:30:45",
    "Rate limit reached: Limit 30000, Used 29000, Requested 2000. Please try again in 2.5s.",
    "Visit https://platform.openai.com/account/rate-limits to learn more.",
    "Error while downloading https://example.com/cat.png?x=1.",
    "You exceeded your current quota, please check your plan and billing details.",
    "Invalid value: 'foo'. Supported values are: 'system', 'assistant', 'user', 'function', and 'tool'.",
    "functions.0.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'",
    "No endpoints found that support image input",
    "No such File object: file-abc123XYZ and host is down; std::vector",
    "A project-level key, a workspace-wide limit and an account-specific quota",
    "Your organization's limit is 50,000 tokens; the project has 12 seats; the account is not active",
]


@pytest.mark.parametrize(("secret", "words"), THEIRS.items(), ids=THEIRS)
def test_what_is_the_operators_goes(secret: str, words: str) -> None:
    assert secret in words
    shown = redact(words)
    assert secret not in shown
    assert redact(shown) == shown


@pytest.mark.parametrize("words", OURS_TO_SEE)
def test_what_the_caller_needs_stays(words: str) -> None:
    assert redact(words) == words


@pytest.mark.parametrize("before", [0, 1, 990, 1000, 1990, 1999, 2000, 2500, 9990])
@pytest.mark.parametrize("secret", [LONG_KEY, "org-AbCdEf0123456789", "boss@acme.example"])
def test_no_part_of_it_is_left_where_the_words_are_cut(before: int, secret: str) -> None:
    shown = Redactor(LONG_KEY)(f"{'words ' * 2000}"[:before] + f" {secret} and more")
    assert not any(secret[:length] in shown for length in (8, len(secret)))
    assert len(shown) <= MOST_SHOWN


def test_what_shrinks_does_not_bring_the_rest_into_view() -> None:
    assert "sk-proj" not in Redactor(LONG_KEY)(f"{LONG_KEY} " * 500)


@pytest.mark.parametrize(
    "written",
    [
        LONG_KEY,
        LONG_KEY.replace("/", "%2F").replace("+", "%2B"),
        "sk-proj-...",
        "sk-proj-Pl***",
        f"x{LONG_KEY}y",
    ],
)
def test_a_key_is_known_however_it_is_written(written: str) -> None:
    assert "sk-proj" not in Redactor(LONG_KEY)(f"Wrong: {written}!")


def test_a_name_that_stands_for_no_key_does_not_spoil_the_words() -> None:
    assert Redactor("none")("There is none in nonesuch") == "There is [redacted] in nonesuch"
    assert Redactor("x")("extra x") == "extra [redacted]"
    assert Redactor("")("extra x") == "extra x"


@pytest.mark.parametrize("word", ["context_length_exceeded", "messages[0].content", "rate_limit_error"])
def test_an_identifier_stays(word: str) -> None:
    assert redact.identifier(word) == word


@pytest.mark.parametrize(
    "word", [KEY, "org-123", "req_0a1b2c", "tools[org-123].name", f"headers.{KEY}", "a\x00b"]
)
def test_an_identifier_that_tells_something_goes_as_a_whole(word: str) -> None:
    assert redact.identifier(word) is None


@given(st.text(max_size=300), st.text(max_size=300))
def test_the_key_is_never_in_it_and_it_can_always_be_sent(before: str, after: str) -> None:
    shown = redact(f"{before}{KEY}{after}")
    assert KEY not in shown
    shown.encode()


@pytest.mark.parametrize(
    "unit",
    [
        *"aA0-._*@:[/'\"<\ud83d",
        *("a-", "a.", "1.", "a1-", "a_", "0a", "a-0", "::", "org-", "req_", "key=", "host ", "token "),
        *("http://", "a.svc.", "organization "),
    ],
)
def test_it_takes_no_longer_the_more_there_is(unit: str) -> None:
    """A pattern that goes back would take minutes for this."""
    shown = redact((unit * 1_000_000)[:1_000_000])
    assert len(shown) <= MOST_SHOWN
