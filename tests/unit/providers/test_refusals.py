"""What a provider said, read from each shape in use, and whose matter it is."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.providers import refusals
from dub5.providers.refusals import MOST_READ, MOST_WAIT, Refusal, Verdict, read, read_json, verdict

NOW = 1_790_000_000.0

OPENAI = {
    "message": "Too long.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}
GOOGLE = {
    "code": 429,
    "message": "Resource has been exhausted (e.g. check quota).",
    "status": "RESOURCE_EXHAUSTED",
    "details": [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED"},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"},
    ],
}
VLLM = {"object": "error", "message": "Bad n", "type": "BadRequestError", "param": None, "code": 400}
RAW = json.dumps({"error": OPENAI})

SHAPES: list[tuple[Any, dict[str, Any]]] = [
    ({"error": OPENAI}, {"words": "Too long.", "code": "context_length_exceeded", "param": "messages"}),
    ({"error": OPENAI}, {"type": "invalid_request_error"}),
    (
        {"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}},
        {"words": "Busy", "type": "overloaded_error", "code": None},
    ),
    (
        [{"error": GOOGLE}],
        {
            "words": GOOGLE["message"],
            "type": "RESOURCE_EXHAUSTED",
            "status": 429,
            "retry_after": 7.5,
            "code": None,
        },
    ),
    ({"error": GOOGLE}, {"words": GOOGLE["message"], "retry_after": 7.5}),
    (VLLM, {"words": "Bad n", "type": "BadRequestError", "code": None, "status": 400}),
    ({"error": VLLM}, {"words": "Bad n", "type": "BadRequestError", "code": None, "status": 400}),
    ({"detail": "Not allowed"}, {"words": "Not allowed", "param": None}),
    (
        {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "bad role"}]},
        {"words": "messages[0].role: bad role", "param": "messages[0].role"},
    ),
    (
        {"detail": [{"loc": ["body", "x"], "msg": "a"}, {"loc": ["query", "y"], "msg": "b"}]},
        {"words": "x: a; query.y: b", "param": "x"},
    ),
    ({"detail": [{"loc": None, "msg": "a"}, 7, {"msg": 8}]}, {"words": "a", "param": None}),
    ({"detail": [{"loc": ["body"], "msg": "a"}]}, {"words": "a", "param": None}),
    ({"detail": {"error": OPENAI}}, {"words": "Too long.", "code": "context_length_exceeded"}),
    (
        {
            "object": "error",
            "message": {"detail": [{"loc": ["body", "n"], "msg": "a"}]},
            "type": "invalid_request_error",
        },
        {"words": "n: a", "param": "n", "type": "invalid_request_error"},
    ),
    ({"error": "model is loading"}, {"words": "model is loading"}),
    ({"error": ["one", "two"]}, {"words": "one"}),
    (
        {"error": "invalid_request", "error_description": "No scope"},
        {"words": "No scope", "code": "invalid_request"},
    ),
    (
        {"success": False, "errors": [{"code": 7003, "message": "No route"}]},
        {"words": "No route", "code": None},
    ),
    (
        {"code": "InvalidParameter", "message": "Bad", "request_id": "r"},
        {"words": "Bad", "code": "InvalidParameter"},
    ),
    (
        {"type": "https://x.example/p", "title": "Bad", "detail": "Because", "status": 422},
        {"words": "Because", "status": 422, "type": None},
    ),
    ({"__type": "ValidationException", "Message": "Bad"}, {"words": "Bad", "type": "ValidationException"}),
    ({"error": {"code": "429", "message": "Please retry after 6 seconds."}}, {"code": None, "status": 429}),
    (
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {"raw": RAW, "provider_name": "X"},
            }
        },
        {"words": "Too long.", "code": "context_length_exceeded", "status": 400},
    ),
    ({"error": {"message": "Provider returned error", "metadata": {"raw": "Oops"}}}, {"words": "Oops"}),
    ({"error_code": "ENDPOINT_NOT_FOUND", "message": "m"}, {"code": "ENDPOINT_NOT_FOUND"}),
    (
        {"type": "urn:x:not-found", "title": "Not Found", "status": 404, "detail": "Function 'a'"},
        {"words": "Function 'a'"},
    ),
    ({"error": {"code": "1113", "message": "m"}}, {"code": None, "number": "1113", "status": None}),
    ({"errors": [{"message": "m", "code": 4006}], "success": False}, {"words": "m", "number": "4006"}),
    (
        {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "m"}},
        {"words": "m", "code": "rate_limit_exceeded"},
    ),
    ({"base_resp": {"status_code": 9, "status_msg": "m"}}, {"words": "m", "code": None}),
    (
        {
            "error": {
                "message": "m",
                "details": [{"violations": [{"quotaId": "GenerateRequestsPerDayPerModel"}]}],
            }
        },
        {"used_up": True},
    ),
    (
        {"error": {"message": "Rate limit reached. Please try again in 7m12.5s. Need more?"}},
        {"retry_after": 432.5},
    ),
    ({"error": {"message": "Please retry after 26 seconds."}}, {"retry_after": 26.0}),
    ({"error": {"message": "Please wait 12345 seconds before retrying."}}, {"retry_after": 12345.0}),
    ({"error": {"message": "please try again after 1 seconds"}}, {"retry_after": 1.0}),
    ({"error": {"message": "Try again in 500ms"}}, {"retry_after": 0.5}),
    ({"error": {"message": "Try again in 3 parts", "retry_after": "1m5s"}}, {"retry_after": 65.0}),
    ({"error": {"message": "Try again in 99999999 hours"}}, {"retry_after": MOST_WAIT}),
    ({"error": {"message": "Try again later"}}, {"retry_after": None}),
    (
        {"error": {"message": "m", "type": None, "param": 7, "code": None}},
        {"words": "m", "type": None, "param": None, "code": None},
    ),
    ({"error": {"message": "m", "code": "not an identifier"}}, {"code": None}),
    ({"error": {"message": "m", "code": "x" * 65}}, {"code": None}),
    ({"error": {"message": "m", "code": True}}, {"code": None, "status": None}),
    ({"error": {"message": "m", "param": "p" * 999}}, {"param": "p" * 200}),
    ({"error": {"message": "half a \ud83d pair"}}, {"words": "half a \ud83d pair"}),
    ({"error": {"message": "m", "retry_after": 3}}, {"retry_after": 3.0}),
    ({"error": {"message": 7}}, {"words": ""}),
    ({"error": True, "message": "m"}, {"words": "m"}),
    ({"error": {}}, {"words": ""}),
    ("Just words", {"words": "Just words"}),
    ([], {"words": ""}),
    (7, {"words": ""}),
    (None, {"words": ""}),
]


@pytest.mark.parametrize(("body", "expected"), SHAPES, ids=[str(shape)[:60] for shape, _ in SHAPES])
def test_shapes(body: Any, expected: dict[str, Any]) -> None:
    refusal = read(json.dumps(body).encode())
    assert {name: getattr(refusal, name) for name in expected} == expected


PAGE = b"<html>\n<head><title>413 Request Entity\nToo Large</title></head><body><h1>x</h1><center>nginx</center></body>"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PAGE, "413 Request Entity Too Large"),
        (b"<!DOCTYPE html><body><h1 class='x'>Denied</h1>", "Denied"),
        (b"<p>No\n<b>title</b></p>", "No title"),
        (b"  upstream connect error\n", "upstream connect error"),
        (b"x" * 5000, "x" * 300),
        (b"", ""),
        (b"{", ""),
        (b'{"error": {"message": "cut', ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'\xef\xbb\xbf{"error": "marked"}', "marked"),
        (b'data: {"error": {"message": "as an event"}}\n\n', "as an event"),
        (b'event: error\ndata: {"message": "named"}\n\ndata: [DONE]\n\n', "named"),
        (b'{"error": ' + b"[" * 100_000, ""),
        (b'{"code": ' + b"9" * 10_000 + b"}", ""),
    ],
)
def test_what_is_no_json(body: bytes, words: str) -> None:
    assert read(body).words == words


def test_a_page_is_known_for_one() -> None:
    assert read(PAGE).page
    assert not read(b"words").page


NAMES = [
    "error",
    "errors",
    "detail",
    "message",
    "code",
    "loc",
    "msg",
    "details",
    "status",
    "type",
    "metadata",
    "raw",
    "base_resp",
    "status_code",
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.sampled_from(NAMES), each, max_size=4),
    max_leaves=12,
)


@given(ANY_JSON)
def test_whatever_comes_is_read(data: Any) -> None:
    refusal = read_json(data)
    for status in (400, 401, 403, 404, 409, 413, 422, 424, 429, 500, 529):
        verdict(status, refusal)
    assert refusals.implied_status(refusal) in {None, *range(400, 600)}
    assert isinstance(read(json.dumps(data).encode()), Refusal)


@pytest.mark.parametrize("unit", ["<", "<h1", "<title", "{", "data: ", "model ", "exceeds ", '"', "a"])
def test_reading_takes_no_longer_the_more_there_is(unit: str) -> None:
    refusal = read((unit * MOST_READ)[:MOST_READ].encode())
    assert len(refusal.words) <= 10_000
    for status in (400, 403, 404, 429):
        verdict(status, refusal)


def said(words: str = "", code: str | None = None, kind: str | None = None, **more: Any) -> Refusal:
    return Refusal(words, code=code, type=kind, **more)


CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
QUOTA = "You exceeded your current quota, please check your plan and billing details."
UNKNOWN = "The model `gpt-9` does not exist or you do not have access to it."

VERDICTS: list[tuple[int, Refusal, Verdict]] = [
    (400, said("Bad n."), "caller"),
    (400, said("Too long", "context_length_exceeded"), "caller"),
    (400, said("Unsupported parameter: 'max_tokens' is not supported with this model.", param="max_tokens"), "caller"),
    (400, said("Invalid schema for function 'billing'"), "caller"),
    (400, said("The response was filtered", "content_filter"), "caller"),
    (400, said("This model does not support image input."), "caller"),
    (400, said("messages: the model output must be valid"), "caller"),
    (400, said("The model could not read the image: file not found"), "caller"),
    (400, said("The model `x` does not support tools, which does not exist"), "caller"),
    (400, said("The model `x/y:8b` does not exist."), "account"),
    (400, said("model llama3.1:8b not found"), "account"),
    (400, said(CREDIT), "account"),
    (400, said("Billing hard limit has been reached", "billing_hard_limit_reached"), "account"),
    (400, said("This organization has been disabled."), "account"),
    (400, said("API key not valid. Please pass a valid API key.", kind="INVALID_ARGUMENT"), "credentials"),
    (400, said("User location is not supported for the API use.", kind="FAILED_PRECONDITION"), "account"),
    (400, said("Model Not Exist"), "account"),
    (400, said("Invalid model: foo", kind="invalid_model"), "account"),
    (400, said("x/y is not a valid model ID"), "account"),
    (400, said("The model `x` has been decommissioned", "model_decommissioned"), "account"),
    (400, said("Your organization must be verified to stream this model.", "unsupported_value"), "account"),
    (400, said("You have reached your specified API usage limits."), "account"),
    (400, said("Organization has been restricted.", "organization_restricted"), "account"),
    (400, said("Access denied, your account is not in good standing.", "Arrearage"), "account"),
    (400, said("Budget has been exceeded!", kind="budget_exceeded"), "account"),
    (400, said("Your account 123456789012 is not authorized to invoke this API operation."), "account"),
    (400, said("The security token included in the request is invalid."), "credentials"),
    (403, said("The security token included in the request is expired"), "credentials"),
    (413, said("Too long."), "caller"),
    (422, said("n: field required", param="n"), "caller"),
    (401, said("Incorrect API key"), "credentials"),
    (407, said(), "credentials"),
    (402, said("Insufficient credits"), "account"),
    (403, said("Your input was flagged"), "request"),
    (403, said("x/y requires moderation. Your input was flagged for violence."), "request"),
    (403, said("Not today"), "request"),
    (403, said("Blocked", "content_policy_violation"), "request"),
    (403, said("Project does not have access to model `gpt-5`", "model_not_found"), "credentials"),
    (403, said("You have insufficient permissions for this operation."), "credentials"),
    (403, said("Generative Language API has not been used", kind="PERMISSION_DENIED"), "credentials"),
    (403, said("Country, region, or territory not supported", "unsupported_country_region_territory"), "credentials"),
    (403, said("Forbidden"), "credentials"),
    (403, said(), "credentials"),
    (403, said("Attention Required! | Cloudflare", page=True), "credentials"),
    (404, said(UNKNOWN, "model_not_found"), "account"),
    (404, said(UNKNOWN), "account"),
    (404, said("model: claude-9", kind="not_found_error"), "account"),
    (404, said("model 'llama9' not found, try pulling it first"), "account"),
    (404, said("models/gemini-9 is not found for API version v1beta", kind="NOT_FOUND"), "account"),
    (404, said("The API deployment for this resource does not exist.", "DeploymentNotFound"), "account"),
    (404, said("Not Found"), "account"),
    (404, said("404 page not found"), "account"),
    (404, said("Resource not found"), "account"),
    (404, said("Unknown request URL: POST /chat"), "account"),
    (404, said("Invalid URL (POST /v1/v1/chat/completions)", kind="invalid_request_error"), "account"),
    (404, said("No endpoints found for acme/gpt-9."), "account"),
    (404, said(), "account"),
    (404, said("No endpoints found that support image input"), "request"),
    (404, said("No endpoints found that support tool use. Visit: https://x"), "request"),
    (404, said("Previous response with id 'resp_1' not found."), "request"),
    (404, said("No such File object: file-1"), "request"),
    (409, said("Conflict"), "request"),
    (424, said("Failed dependency"), "request"),
    (498, said("Flex tier capacity exceeded", "capacity_exceeded"), "request"),
    (429, said("Slow down"), "rate"),
    (429, said("Rate limit", "rate_limit_exceeded", "tokens"), "rate"),
    (429, said(QUOTA, "insufficient_quota"), "quota"),
    (429, said(QUOTA), "quota"),
    (429, said(QUOTA, kind="RESOURCE_EXHAUSTED", retry_after=7.0), "rate"),
    (429, said("Suspended", kind="exceeded_current_quota_error"), "quota"),
    (429, said("Your account is not active", "billing_not_active"), "quota"),
    (405, said("Method Not Allowed"), "account"),
    # Proxies' pages, and what clouds answer.
    (400, said("400 Bad Request", page=True), "request"),
    (400, said("400 Request Header Or Cookie Too Large", page=True), "request"),
    (413, said("413 Request Entity Too Large", page=True), "request"),
    (422, said("Unprocessable", page=True), "request"),
    (400, said("400 The plain HTTP request was sent to HTTPS port", page=True), "account"),
    (400, said("400 No required SSL certificate was sent", page=True), "account"),
    (404, said("404 Not Found", page=True), "account"),
    (429, said("429 Too Many Requests", page=True), "rate"),
    (502, said("502 Bad Gateway", page=True), "fault"),
    (404, said("The given endpoint does not exist, please retry after checking", "ENDPOINT_NOT_FOUND"), "account"),
    (404, said("Endpoint with name 'x' does not exist."), "account"),
    (404, said("x", "RESOURCE_DOES_NOT_EXIST"), "account"),
    (404, said("Function id 'a' version 'b': Not found for account 'c'"), "account"),
    (404, said('path "/v1/chat/completions" not found'), "account"),
    # Money, or the allowance of a day or a month.
    (429, said("Your team 1f has either used all available credits or reached its monthly spending limit."), "quota"),
    (429, said("You have exceeded your credits. Please add more."), "quota"),
    (429, said("Insufficient balance or no resource package. Please recharge.", number="1113"), "quota"),
    (429, said("余额不足或无可用资源包,请充值。"), "quota"),
    (429, said("您的账户已欠费"), "quota"),
    (429, said("No more today.", number="4006"), "quota"),
    (429, said("you have used up your daily free allocation of 10,000 neurons, please upgrade"), "quota"),
    (429, said("Insufficient credits. Add more using https://x"), "quota"),
    (429, said("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock more"), "quota"),
    (429, said("Your project has exceeded its monthly spending cap.", kind="RESOURCE_EXHAUSTED"), "quota"),
    (429, said("Your prepayment credits are depleted.", kind="RESOURCE_EXHAUSTED", retry_after=7.0), "quota"),
    (429, said(QUOTA, kind="RESOURCE_EXHAUSTED", retry_after=7.0, used_up=True), "quota"),
    (429, said("Monthly token limit exceeded"), "quota"),
    (429, said("Number of request tokens has exceeded your daily rate limit", kind="rate_limit_error"), "quota"),
    (429, said("A Trial key is limited to 1000 API calls / month."), "quota"),
    (429, said("You have exceeded the monthly usage quota. It will reset at 2026-08-29", "QuotaExceeded"), "quota"),
    (429, said("Budget has been exceeded!", kind="budget_exceeded"), "quota"),
    (403, said("Your team has either used all available credits or reached its spending limit."), "credentials"),
    (403, said("Your paid balance is insufficient. Please top up and try again."), "credentials"),
    (403, said("The free tier of the model has been exhausted."), "credentials"),
    (402, said("Insufficient Balance", "invalid_request_error"), "account"),
    # Not so: it is more again in a moment.
    (429, said("Rate limit of 50 per day exceeded. Please wait 12 seconds before retrying.", retry_after=12.0), "rate"),
    (429, said("Service tier capacity exceeded for this model.", kind="service_tier_capacity_exceeded"), "rate"),
    (429, said("High concurrency usage of this API", number="1302"), "rate"),
    (429, said("A Trial key is limited to 20 API calls / minute."), "rate"),
    (429, said("request reached organization max RPM: 3", kind="rate_limit_reached_error"), "rate"),
    (429, said("on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443."), "rate"),
    # Larger than all of a minute: another account may do it.
    (413, said("on tokens per minute (TPM): Limit 6000, Requested 12328", "rate_limit_exceeded"), "request"),
    (413, said("Request too large for model `x` on tokens per minute (TPM)"), "request"),
    (413, said("Too large", "rate_limit_exceeded", "tokens"), "request"),
    (429, said("on tokens per min (TPM): Limit 30,000, Requested 342,389.", "rate_limit_exceeded"), "request"),
    (429, said("The input or output tokens must be reduced in order to run successfully."), "request"),
    (429, said("Extra usage is required for long context requests.", kind="rate_limit_error"), "request"),
    (410, said("The model is retired"), "account"),
    (408, said(), "fault"),
    (302, said(), "fault"),
    (500, said("Oops"), "fault"),
    (529, said("Overloaded"), "fault"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "refusal", "expected"), VERDICTS)
def test_verdicts(status: int, refusal: Refusal, expected: Verdict) -> None:
    assert verdict(status, refusal) == expected


def test_a_403_that_names_us_is_about_us() -> None:
    assert verdict(403, said("Not for you"), names_us=True) == "credentials"
    assert verdict(403, said("Your input was flagged"), names_us=True) == "request"


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (said("m"), None),
        (said("m", "strange"), None),
        (said("m", status=502), 502),
        (said("m", kind="overloaded_error"), 529),
        (said("m", kind="rate_limit_error"), 429),
        (said("m", kind="service_tier_capacity_exceeded", number="3505"), 429),
        (said("m", number="1113"), 429),
        (said("m", "insufficient_quota"), 429),
        (said("m", kind="RESOURCE_EXHAUSTED"), 429),
        (said("m", "context_length_exceeded", "invalid_request_error"), 400),
        (said("m", kind="BadRequestError"), 400),
        (said("m", "request_timeout", "invalid_request_error"), 504),
        (said("m", kind="server_error"), 500),
        (said("m", kind="api_error"), 500),
        (said("m", kind="authentication_error"), 401),
    ],
)
def test_the_status_that_an_error_within_an_answer_would_have_had(
    refusal: Refusal, status: int | None
) -> None:
    assert refusals.implied_status(refusal) == status


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ("prompt is too long: 210000 tokens > 200000 maximum", None, "context_length_exceeded"),
        (
            "This model's maximum context length is 65536 tokens.",
            "invalid_request_error",
            "context_length_exceeded",
        ),
        ("Temperature is too high.", "invalid_request_error", "invalid_request_error"),
        ("Input is too long for requested model.", None, "context_length_exceeded"),
        (
            "This model's maximum prompt length is 131072 but the request contains 200000 tokens.",
            None,
            "context_length_exceeded",
        ),
        (
            "the model is loaded with context length of only 4096 tokens, which is not enough",
            None,
            "context_length_exceeded",
        ),
        (
            "too many tokens: total number of tokens in the prompt cannot exceed 4081",
            None,
            "context_length_exceeded",
        ),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097.",
            None,
            "context_length_exceeded",
        ),
        ("This model's maximum context length is 4096 tokens.", None, "context_length_exceeded"),
        ("The input token count (12000) exceeds the maximum", None, "context_length_exceeded"),
        ("This model's maximum context length is 4096 tokens.", "string_too_long", "string_too_long"),
        ("max_tokens is too large", None, None),
    ],
)  # fmt: skip
def test_a_history_that_is_too_long_has_the_code_that_agents_know(
    words: str, code: str | None, expected: str | None
) -> None:
    assert refusals.code_of(said(words, code)) == expected


def after(value: str) -> dict[str, str]:
    return {"retry-after": value}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        (after("7"), 7.0),
        (after("0"), 0.0),
        (after("0.4"), 0.4),
        (after(" 7s "), 7.0),
        (after("9" * 30), MOST_WAIT),
        (after("-1"), None),
        (after("nan"), None),
        (after("inf"), None),
        (after("soon"), None),
        (after(""), None),
        (after("\u0667"), None),
        ({"retry-after-ms": "1250"}, 1.25),
        ({"retry-after-ms": "1250", "retry-after": "2"}, 1.25),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "9" * 30}, MOST_WAIT),
        (after(formatdate(NOW + 30, usegmt=True)), 30.0),
        (after(formatdate(NOW - 30, usegmt=True)), 0.0),
        (after(formatdate(NOW + 10**8, usegmt=True)), MOST_WAIT),
        (after("Wed, 99 Foo 2026 99:99:99 GMT"), None),
        (after("Wed, 21 Oct 99999999999 07:28:00 GMT"), None),
        (after("x" * 10_000), None),
        ({**after(formatdate(NOW + 30, usegmt=True)), "date": formatdate(NOW + 20, usegmt=True)}, 10.0),
        (after("3000ms"), 3.0),
        (after("1m5s"), 65.0),
        (after("6m0s"), 360.0),
        (after("1h 2m 3.5s"), 3723.5),
        (after("2 minutes"), 120.0),
        (after("30 sec"), 30.0),
        (after("400d"), MOST_WAIT),
        (after("4, 4"), 4.0),
        (after("4,7s"), 7.0),
        (after(", 4"), 4.0),
        (after("4, soon"), None),
        (after("4 4"), None),
        (after("5 parsecs"), None),
        (after("m5s"), None),
        (after(f"{NOW + 30:.0f}"), 30.0),
        (after(f"{1000 * NOW + 30_500:.0f}"), 30.5),
        (after(f"{NOW - 30:.0f}"), 0.0),
        (after("2026-09-21T14:13:50Z"), 30.0),
        (after("2026-09-21T16:13:50.5+02:00"), 30.5),
        (after("2026-09-21 14:13:50"), 30.0),
        (after("2026-99-21T14:13:50Z"), None),
        ({"x-ratelimit-reset-requests": "7"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert refusals.retry_after(headers, NOW) == seconds


LEFT = "x-ratelimit-remaining-"
RESET = "x-ratelimit-reset-"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({RESET + "requests": "1m5s"}, 65.0),
        ({RESET + "requests": "7", RESET + "tokens": "120ms"}, 7.0),
        ({RESET + "requests": "7", LEFT + "requests": "3"}, None),
        ({RESET + "requests": "7", LEFT + "requests": "3", RESET + "tokens": "2s", LEFT + "tokens": "0"}, 2.0),
        ({RESET + "requests": "soon"}, None),
        ({RESET + "requests": "7", LEFT + "requests": "some"}, None),
        ({RESET + "requests": "999d"}, MOST_WAIT),
        ({"x-ratelimit-reset": f"{1000 * NOW + 9000:.0f}", "x-ratelimit-remaining": "0"}, 9.0),
        ({"a-ratelimit-tokens-reset": "2026-09-21T14:13:50Z", "a-ratelimit-tokens-remaining": "0"}, 30.0),
        ({"ratelimit-reset": "50"}, 50.0),
        ({"ratelimit-reset-requests-day": "33011.38", "ratelimit-remaining-requests-day": "14000"}, None),
    ],
)  # fmt: skip
def test_when_what_remains_is_nothing(headers: dict[str, str], seconds: float | None) -> None:
    assert refusals.reset_after(headers, NOW) == seconds


@pytest.mark.parametrize("written", ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
def test_the_obsolete_forms_of_a_date(written: str) -> None:
    assert refusals.retry_after({**after(written), "date": "Sun, 06 Nov 1994 08:49:30 GMT"}, NOW) == 7.0


TIMES = st.lists(
    st.sampled_from(["1", "9" * 30, ".5", "ms", "s", "m", "h", " ", ",", "-", "T", ":", "2026-09-21"])
)


@given(st.text(max_size=60) | TIMES.map("".join))
def test_whatever_the_header_says_it_is_bounded(written: str) -> None:
    for seconds in (
        refusals.retry_after(after(written), NOW),
        refusals.reset_after({"ratelimit-reset": written}, NOW),
        read_json({"message": f"try again in {written}"}).retry_after,
    ):
        assert seconds is None or 0 <= seconds <= MOST_WAIT


@pytest.mark.parametrize("delay", ["x", None, {}, "-1s", True])
def test_a_retry_info_that_says_nothing(delay: object) -> None:
    assert read_json({"error": {"message": "m", "details": [{"retryDelay": delay}, 7]}}).retry_after is None
