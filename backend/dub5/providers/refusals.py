"""What a provider says when it refuses: read from any of the shapes in use, and what it means for the caller.

Providers differ in the shape (OpenAI's object, Google's list, FastAPI's `detail`, Ollama's bare text, a proxy's page)
and agree, more or less, on the status. `read` finds words, code, type and param in any shape; `verdict` says whose
matter it is:

- *caller*: 400, 413, 422. Whoever is asked would refuse it.
- *request*: 403, 404, 409, 424, 498. About this request, but perhaps only here: the next route is asked. So are a 413
  and a 429 of a request that is larger than all that an account may send in a minute, and a proxy's page with 400 or
  413.
- *rate*: 429. *quota*: the same, but the money or the allowance of a day or a month is used up: a retry does not help.
- *credentials*, *account*: ours to mend: a key, a permission, a bill, a model that the provider does not know.
- *fault*: the provider's own.

An error that is reported inside an answer with status 200 is judged by the status that it would have had.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

MOST_READ = 2**18
"""Bytes of an error's body that are read."""

MOST_WAIT = 86_400.0
"""Seconds: a provider's longer `Retry-After` is cut to this."""

Verdict = Literal["caller", "request", "rate", "quota", "credentials", "account", "fault"]

_SENTENCE = 300
"""Characters of a text or page that stand for it."""

_WORDS = 10_000
"""Characters of a message that are kept; far fewer are shown."""

_SEARCHED = 2000
"""Characters of them that are looked at."""

_PARAM = 200
"""Characters of a field's path that are kept."""

_DEPTH = 4
"""Errors inside of errors that are looked into."""

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


class Refusal(msgspec.Struct, frozen=True):
    """`words` are the provider's own, for people; `code` and `type` short identifiers, `number` a code in digits.

    `status` is one that the body names, `retry_after` seconds that it names. `used_up`: what it may do in a day is.
    `page`: it was HTML, so it comes from something between us and the provider, or from something that is no provider.
    """

    words: str = ""
    code: str | None = None
    type: str | None = None
    number: str | None = None
    param: str | None = None
    status: int | None = None
    retry_after: float | None = None
    used_up: bool = False
    page: bool = False

    @property
    def kinds(self) -> set[str]:
        """Code, number and type as one writes them: `InsufficientQuota` is `insufficient_quota`."""
        return {_snake(word) for word in (self.code, self.number, self.type) if word}


def read(body: bytes) -> Refusal:
    """What the body of an error says, in whatever shape."""
    text = body.decode("utf-8-sig", "replace").strip()
    if text.startswith(("data:", "event:")):  # an error sent as the one event of a stream
        text = "".join(re.findall(r"^data:[ ]?(.*)$", text, re.MULTILINE)[:1])
    try:
        data = json.loads(text)  # takes what msgspec refuses, such as half of a surrogate pair
    except (ValueError, RecursionError):
        if text.startswith(("{", "[")):  # JSON that was cut
            return Refusal()
        return _plain(text if text.startswith("<") else text[:_SENTENCE])
    return read_json(data)


def read_json(data: object, depth: int = _DEPTH) -> Refusal:
    """The same, of decoded JSON: a body, the `error` in it, or an event."""
    match data:
        case str():
            return _plain(data)
        case [first, *_] if depth:
            if isinstance(first, dict) and "msg" in first:
                return _validation(data)
            return read_json(first, depth - 1)
        case dict():
            return _of_object(data, depth)
    return Refusal()


def _of_object(data: dict[str, Any], depth: int) -> Refusal:
    own = _fields(data)
    inner = data.get("error") or data.get("errors") or data.get("base_resp")
    if isinstance(inner, str) and own.words:  # OAuth's: a name, with the words beside it
        return msgspec.structs.replace(own, code=own.code or _identifier(inner))
    if not inner:  # Mistral has an object for a message
        inner = data["message"] if isinstance(data.get("message"), (dict, list)) else data.get("detail")
    if not inner or not depth:
        return own
    found = read_json(inner, depth - 1)
    # What is missing inside may stand beside it.
    given = {name: value for name in Refusal.__struct_fields__ if (value := getattr(found, name))}
    return msgspec.structs.replace(own, **given)


def _fields(error: dict[str, Any]) -> Refusal:
    names = ("message", "Message", "error_description", "msg", "error_msg", "status_msg", "title", "reason")
    words = next((error[name] for name in names if isinstance(error.get(name), str) and error[name]), "")
    details = error["details"] if isinstance(error.get("details"), list) else []
    code, status, raw = error.get("code"), error.get("status"), _raw(error.get("metadata"))
    numbers = (_status(each) for each in (code, status, error.get("status_code")))
    said = msgspec.structs.replace(
        _plain(words),
        code=_identifier(code) or _identifier(error.get("error_code")) or _minimaxs(error.get("status_code")),
        type=_identifier(error.get("type")) or _identifier(status) or _identifier(error.get("__type")),
        number=_digits(code) or _digits(error.get("type")),
        param=_param(error.get("param")),
        status=next((number for number in numbers if number is not None), None),
        retry_after=_stated_delay(error, details, words),
        used_up=any(
            "PerDay" in str(each.get("violations"))[:_WORDS] for each in details if isinstance(each, dict)
        ),
    )
    if raw is not None:  # OpenRouter's own words say only that somebody refused
        given = {name: value for name in ("words", "code", "param") if (value := getattr(raw, name))}
        said = msgspec.structs.replace(said, **given)
    return said


def _raw(metadata: object) -> Refusal | None:
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return read(raw.encode("utf-8", "replace")) if isinstance(raw, str) and raw else None


_MINIMAX = {
    **dict.fromkeys((1000, 1013, 1024, 1033), "server_error"),
    1001: "timeout",
    **dict.fromkeys((1002, 1041, 2045), "rate_limit_exceeded"),
    **dict.fromkeys((1004, 2049), "invalid_api_key"),
    1008: "insufficient_balance",
    **dict.fromkeys((1026, 1027), "content_filter"),
    **dict.fromkeys((1039, 2013), "invalid_request_error"),
    2056: "quota_exceeded",
}
"""What its numbers are called elsewhere. Zhipu means something else by some of them."""


def _minimaxs(number: object) -> str | None:
    return _MINIMAX.get(number) if isinstance(number, int) else None


def _validation(complaints: Sequence[Any]) -> Refusal:
    """FastAPI's `[{"loc": ["body", "messages", 0, "role"], "msg": …}]`; the first one's place is the param."""
    proper = [each for each in complaints if isinstance(each, dict) and isinstance(each.get("msg"), str)][:3]
    places = [_place(each.get("loc")) for each in proper]
    said = [
        f"{place}: {each['msg']}" if place else each["msg"]
        for place, each in zip(places, proper, strict=True)
    ]
    return Refusal("; ".join(said), param=next(iter(places), None))


def _place(location: object) -> str | None:
    """`["body", "messages", 0, "role"]` as `messages[0].role`."""
    if not isinstance(location, list):
        return None
    path = ""
    for step in location[:20]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif isinstance(step, str) and not (step == "body" and not path):
            path += f".{step}" if path else step
    return path[:_PARAM] or None


def _digits(written: object) -> str | None:
    """A code such as Zhipu's `1113`; a status is none."""
    found = re.fullmatch(r"[0-9]{4,6}", str(written)) if isinstance(written, (int, str)) else None
    return found[0] if found else None


def _param(written: object) -> str | None:
    return written[:_PARAM] if isinstance(written, str) and written else None


def _identifier(written: object) -> str | None:
    """Anthropic's outer type is `error`, and some write `null`: those say nothing."""
    proper = isinstance(written, str) and _CODE.fullmatch(written) and written.lower() not in _NOTHING
    return str(written) if proper else None


_NOTHING = {"error", "null", "none", "unknown", "undefined"}


def _status(written: object) -> int | None:
    if isinstance(written, str) and re.fullmatch(r"[45][0-9]{2}", written):
        return int(written)
    return written if isinstance(written, int) and 400 <= written < 600 else None


def _plain(text: str) -> Refusal:
    """Of text; of a page its title."""
    text = text.strip()
    if not text.startswith("<"):
        return Refusal(text[:_WORDS])
    title = _TITLE.search(text[:MOST_READ])
    shown = title[1] or title[2] if title else re.sub(r"<[^<>]*>", " ", text[:_WORDS])
    return Refusal(" ".join(shown.split())[:_SENTENCE], page=True)


_TITLE = re.compile(r"<title[^<>]*>([^<]+)|<h1[^<>]*>([^<]+)", re.IGNORECASE)


# --- What it means ---

_QUOTA = {
    *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated"),
    *("exceeded_current_quota_error", "insufficient_balance", "insufficient_credits", "account_deactivated"),
    *("budget_exceeded", "billing_error", "credit_limit", "quota_exceeded", "quota_exhausted"),
    *("1113", "1304", "1308", "1310"),  # Zhipu: no balance; the calls of a day, of five hours, of a week
    *("3036", "4006"),  # Cloudflare: the allowance of the day
}

_MONEY_WORDS = re.compile(
    r"\binsufficient (?:\w{1,20} )?(?:quota|balance|credits?|funds)\b|"
    r"\b(?:balance|credits?|allowance) (?:is|are|has been|have been) "
    r"(?:insufficient|depleted|exhausted|too low|used up)\b|"
    r"\b(?:run|ran|are|is) out of (?:\w{1,20} )?credits?\b|"
    r"\b(?:used|exceeded|depleted|exhausted|used up) (?:all|your|its|the)\b[\w ]{0,40}?"
    r"\b(?:credits?|balance|budget|free allocation)\b|"
    r"\b(?:spend|spending|credit|billing|billing hard) (?:limit|cap)\b|\bbudget has been exceeded\b|"
    r"\bfree (?:tier|quota|allocation|trial)\b[\w ]{0,40}\b(?:exhausted|used up|ended|expired)\b|"
    r"\baccount (?:\S{1,80} )?is (?:not active|suspended|deactivated|disabled)\b|"
    r"余额不足|欠费|额度(?:不足|已用)|请充值",
    re.IGNORECASE,
)
"""Whoever says so means money, also in Chinese: balance too low, arrears, allowance used up, please pay in."""

_QUOTA_WORDS = re.compile(
    r"\bplans? and billing\b|(?:\bper|/)[ -]?(?:day|week|month)\b|\bwill reset at\b|"
    r"\b(?:daily|weekly|monthly) (?:\w{1,20} ){0,3}(?:limit|quota|allowance)\b",
    re.IGNORECASE,
)
"""Said of what is used up for long, unless it is said, too, when to come again."""

_ACCOUNT = {
    *_QUOTA,
    *("organization_disabled", "unsupported_country_region_territory"),
    *("deployment_not_found", "operation_not_supported", "unknown_url"),
    *("model_not_found", "model_not_available", "invalid_model", "model_not_exist", "model_not_supported"),
    *("model_not_found_error", "unknown_model", "invalid_model_error", "model_decommissioned"),
    *("organization_restricted", "arrearage", "endpoint_not_found", "resource_does_not_exist"),
}
"""Codes and types with which, whatever the status, no caller can do anything: the key, the bill, or a name of ours."""

_RATE = {"rate_limit_exceeded", "rate_limit_error", "tokens", "requests", "too_many_requests"}

_KEY = {"invalid_api_key", "authentication_error", "unauthenticated", "api_key_invalid", "incorrect_api_key"}

_ACCOUNT_WORDS = re.compile(
    r"\bcredit balance\b|\bplans? (?:&|and) billing\b|\bbilling (?:details|account|hard limit|issue|is)\b|"
    r"\benable billing\b|\borgani[sz]ation (?:has been (?:disabled|restricted)|must be verified)\b|"
    r"\breached your specified API usage limits\b|\baccount (?:\d+ )?is not authorized to invoke\b|"
    r"\b(?:user location|country, region,? or territory)(?: is)? not supported\b",
    re.IGNORECASE,
)

_KEY_WORDS = re.compile(
    r"\b(?:api|subscription)[ _-]?key (?:is |was )?(?:not valid|invalid|expired|not found|missing)\b|"
    r"\b(?:invalid|incorrect|expired|missing) (?:api|subscription)[ _-]?key\b|"
    r"\bsecurity token included in the request is (?:expired|invalid)\b",
    re.IGNORECASE,
)

_UNKNOWN_MODEL = re.compile(
    r"^\W*model:\W|"  # Anthropic's 404 is `model: NAME`
    r"\bmodels?\b[^;\n]{0,150}?\b(?:not found|not exist|doesn't exist|not available|is not supported)\b|"
    r"\b(?:unknown|invalid|no such|not a valid) model\b|\bapi deployment\b|"
    r"\bendpoint\b[^;\n]{0,100}\bdoes not exist\b|\bfunction\b[^;\n]{0,120}: not found\b|"  # Databricks, NVIDIA
    r"\bno endpoints found (?:for|matching your data policy)\b",
    re.IGNORECASE,
)

_UNKNOWN_MODEL_400 = re.compile(
    r"^\W*(?:the )?(?:requested )?models?(?: id| name)?[\s:]+(?:[`'\"]?[\w./:@-]+[`'\"]?\s+)?"
    r"(?:(?:was |is |does |could )?not (?:be )?|doesn't )(?:found|exist|available)\b|"
    r"^\W*(?:unknown|invalid|no such) model(?= name| id\b|\W*$|\W*[:`'\"])|\bnot a valid model\b",
    re.IGNORECASE,
)
"""Stricter: a 400 is the caller's as a rule."""

_WRONG_PLACE = re.compile(
    r"^\W*(?:404\b\W*)?(?:page |route |path |resource |url |endpoint )?not found\W*$|^\W*no (?:route|endpoint)\b(?!s)|"
    r"^\W*path [\"'`]?/[^\s\"'`]{0,200}[\"'`]? not found\W*$|"
    r"\b(?:unknown|invalid|unrecognized) (?:request )?url\b|\b404 (?:page )?not found\b|\bcannot post\b",
    re.IGNORECASE,
)
"""The whole of what is said where nothing is at our `base_url`."""

_WRONG_DOOR = re.compile(r"\bplain HTTP request\b|\bSSL certificate\b", re.IGNORECASE)
"""Of nginx, where it wants TLS, or a certificate of ours."""

_FLAGGED = re.compile(
    r"\bflagged\b|\bmoderat|content.?(?:polic|filter|violation)|\bpolicy violation|\bsafety\b|\bharmful\b|"
    r"\busage polic|\bviolat\w* [^.\n]{0,60}polic|\bblocked (?:by|due)\b",
    re.IGNORECASE,
)

_NO_PERMISSION = re.compile(
    r"permission|api.?key|\bkey\b|credential|unauthori[sz]ed|not authori[sz]ed|forbidden|access denied|"
    r"\b(?:no|not have|lacks?|denied|without) access\b|country|region|territory|billing|quota|suspended|disabled|"
    r"subscription|\bplan\b|\baccount\b|\borgani[sz]ation\b|\bproject\b|\bservice has not been used\b|consumer",
    re.IGNORECASE,
)

_TOO_LONG = re.compile(
    r"\bprompt is too long\b|\bmaximum context length\b|\bcontext (?:length|window)\b[^.\n]{0,80}\bexceed|"
    r"\bexceed\w*\b[^.\n]{0,80}\bcontext (?:length|window|size)\b|\binput token count\b[^.\n]{0,60}\bexceeds\b|"
    r"\binput is too long for\b|\bmaximum prompt length\b|\bcontext length of only\b|"
    r"\btokens in the prompt cannot exceed\b|`inputs` tokens \+ `max_new_tokens` must be",
    re.IGNORECASE,
)

_VAGUE = {"invalid_request_error", "invalid_request", "invalid_argument", "bad_request", "bad_request_error"}
"""Codes of any 400 at all: DeepSeek's, for one."""

_STATUSES = {
    **dict.fromkeys(
        ("invalid_request_error", "invalid_argument", "bad_request_error", "failed_precondition"), 400
    ),
    **dict.fromkeys(
        ("context_length_exceeded", "content_filter", "unsupported_parameter", "invalid_prompt"), 400
    ),
    **dict.fromkeys(("authentication_error", "unauthenticated", "invalid_api_key"), 401),
    **dict.fromkeys(("billing_error", "insufficient_credits", "insufficient_balance"), 402),
    **dict.fromkeys(("permission_error", "permission_denied", "permission_denied_error"), 403),
    **dict.fromkeys(("not_found_error", "not_found", "model_not_found"), 404),
    **dict.fromkeys(("request_too_large",), 413),
    **dict.fromkeys(("rate_limit_error", "rate_limit_exceeded", "rate_limit", "rate_limited"), 429),
    **dict.fromkeys(("too_many_requests", "resource_exhausted", "throttling", "requests", "tokens"), 429),
    **dict.fromkeys(("insufficient_quota", "exceeded_current_quota_error", "throttling_exception"), 429),
    **dict.fromkeys(("service_tier_capacity_exceeded", "rate_limit_reached_error", "quota_exceeded"), 429),
    **dict.fromkeys(
        ("rate_limit_reached", "quota_exhausted", "request_limit_exceeded", "budget_exceeded"), 429
    ),
    **dict.fromkeys(("1113", "1302", "1303", "1304", "1305", "1308", "1310"), 429),  # Zhipu
    **dict.fromkeys(("3505", "3036", "3040", "4006"), 429),  # Mistral, Cloudflare
    **dict.fromkeys(
        ("api_error", "server_error", "internal_server_error", "internal_error", "internal"), 500
    ),
    **dict.fromkeys(("upstream_error", "provider_error", "bad_gateway"), 502),
    **dict.fromkeys(("service_unavailable", "unavailable", "server_overloaded", "engine_overloaded"), 503),
    **dict.fromkeys(
        ("timeout", "timeout_error", "deadline_exceeded", "gateway_timeout", "provider_timeout"), 504
    ),
    "request_timeout": 504,  # of gateways whose stream broke off, with `invalid_request_error` for a type
    **dict.fromkeys(("overloaded_error", "overloaded", "model_overloaded"), 529),
}


def implied_status(refusal: Refusal) -> int | None:
    """The status that an error would have had which came with 200; None where it does not say."""
    if refusal.status is not None:
        return refusal.status
    known = (_STATUSES.get(_snake(word)) for word in (refusal.code, refusal.number, refusal.type) if word)
    return next((status for status in known if status is not None), None)


_FITS = re.compile(r"\blimit:? ?([\d,]{1,20})[^\n]{0,80}?\brequested:? ?([\d,]{1,20})", re.IGNORECASE)
"""`Limit 6000, Requested 12328`: Groq, OpenAI."""

_TOO_LARGE_FOR_A_MINUTE = re.compile(
    r"\brequest too large\b[^\n]{0,300}\b(?:tokens|requests) per (?:min|minute|hour|day)\b|"
    r"\btokens must be reduced in order to run\b|\bfor long context requests?\b",
    re.IGNORECASE,
)


def _never_fits(refusal: Refusal) -> bool:
    """Whether a request is larger than all that the account may send in a minute: another account may do."""
    words = refusal.words[:_SEARCHED]
    match = _FITS.search(words)
    limit, requested = (match[each].replace(",", "") or "0" for each in (1, 2)) if match else ("0", "0")
    return int(requested) > int(limit) or bool(_TOO_LARGE_FOR_A_MINUTE.search(words))


def verdict(status: int, refusal: Refusal, *, names_us: bool = False) -> Verdict:
    """Whose matter a refusal with `status` is. `names_us`: its words name a key, an account or a server of ours."""
    kinds, words = refusal.kinds, refusal.words[:_SEARCHED]
    if status in {401, 407} or (status in {400, 403} and (kinds & _KEY or _KEY_WORDS.search(words))):
        return "credentials"
    if status == 429:
        return "quota" if _is_out_of_quota(refusal) else "request" if _never_fits(refusal) else "rate"
    if status == 413 and (kinds & _RATE or _never_fits(refusal)):
        return "request"
    if status in {400, 413, 422}:
        ours = (
            kinds & _ACCOUNT
            or _MONEY_WORDS.search(words)
            or _ACCOUNT_WORDS.search(words)
            or (status == 400 and _names_model(refusal))
            or (refusal.page and _WRONG_DOOR.search(words))
        )
        return "account" if ours else "request" if refusal.page else "caller"
    if status == 403:
        return _of_403(refusal, names_us)
    if status == 404:
        nowhere = refusal.page or not words or _WRONG_PLACE.search(words)
        return "account" if nowhere or kinds & _ACCOUNT or _UNKNOWN_MODEL.search(words) else "request"
    if status in {409, 424, 498}:  # the last is Groq's: no room for requests of the tier that was asked for
        return "request"
    return "account" if 400 <= status < 500 and status not in {408, 425, 499} else "fault"


def _of_403(refusal: Refusal, names_us: bool) -> Verdict:
    kinds, words = " ".join(refusal.kinds), refusal.words[:_SEARCHED]
    if _FLAGGED.search(words) or _FLAGGED.search(kinds):
        return "request"
    ours = refusal.kinds & _ACCOUNT or "permission" in kinds or _MONEY_WORDS.search(words)
    denied = names_us or refusal.page or not words or ours
    return "credentials" if denied or _NO_PERMISSION.search(words) else "request"


def _names_model(refusal: Refusal) -> bool:
    """Whether a 400 is about the name of the model, which callers do not choose."""
    return refusal.param in {None, "model"} and bool(_UNKNOWN_MODEL_400.search(refusal.words[:_SEARCHED]))


def _is_out_of_quota(refusal: Refusal) -> bool:
    words = refusal.words[:_SEARCHED]
    if refusal.used_up or refusal.kinds & _QUOTA or _MONEY_WORDS.search(words):
        return True
    # Google says so of each minute's quota too, but then when to come again.
    known = refusal.kinds & {"rate_limit_exceeded", "resource_exhausted"} or refusal.retry_after is not None
    return not known and bool(_QUOTA_WORDS.search(words))


def code_of(refusal: Refusal) -> str | None:
    """The provider's; where that says nothing, the one by which agents know that a history is too long."""
    vague = refusal.code is None or _snake(refusal.code) in _VAGUE
    if vague and _TOO_LONG.search(refusal.words[:_SEARCHED]):
        return "context_length_exceeded"
    return refusal.code


# --- When to come again ---

_AMOUNT = r"[0-9]{1,30}(?:\.[0-9]{1,30})?"
_UNIT = r"(?:ms|msecs?|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
_DURATION = rf"(?:{_AMOUNT} ?{_UNIT}(?:, | and | )?){{1,4}}"
_IN_WORDS = re.compile(
    rf"\b(?:try again|retry|retrying|wait)(?: (?:in|after|for|at least)){{0,2}}:? ({_DURATION})",
    re.IGNORECASE,
)
_SECONDS = {"ms": 0.001, "mil": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_EPOCH = 10.0**9
"""From here on a number is a moment, in seconds of Unix time, and from a thousand times that on in milliseconds."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds, of `retry-after-ms` or of `Retry-After` in any form; None where neither can be understood.

    `now` is in seconds of Unix time; where the response has its own `Date`, a clock that is wrong does not matter.
    """
    written = _number(headers.get("retry-after-ms", ""))
    if written is not None:
        return min(written / 1000, MOST_WAIT)
    return _wait(headers.get("retry-after", ""), _sent(headers, now))


def reset_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the limits are reset of which nothing remains, by headers such as `x-ratelimit-reset-tokens`.

    Of a 429 that does not say when to come again. Where it does not say what remains of any, until all are reset.
    """
    sent = _sent(headers, now)
    waits: dict[float, float] = {}  # by what remains
    for name in headers:
        written = name.lower()
        if "ratelimit" in written and "reset" in written:
            remaining = _number(headers.get(written.replace("reset", "remaining"), "0"))
            wait = _wait(headers[name], sent)
            if wait is not None and remaining is not None:
                waits[remaining] = max(wait, waits.get(remaining, 0.0))
    return waits.get(0.0)


def _sent(headers: Mapping[str, str], now: float) -> float:
    sent = _date(headers.get("date", ""))
    return now if sent is None else sent


def _wait(written: str, sent: float) -> float | None:
    """Seconds after `sent`: of a number, a duration such as `1m5s`, a date, a moment, or several of them in a list."""
    text = written[:200].strip()
    seconds = _number(text)
    if seconds is not None and seconds >= _EPOCH:
        seconds = (seconds / 1000 if seconds >= 1000 * _EPOCH else seconds) - sent
    if seconds is None:
        seconds = _duration(text)
    if seconds is None:
        at = _date(text)
        seconds = None if at is None else at - sent
    if seconds is None and "," in text:  # a proxy joined what was said twice
        waits = [_wait(each, sent) for each in text.split(",") if each.strip()]
        known = [each for each in waits if each is not None]
        return max(known) if known and len(known) == len(waits) else None
    return None if seconds is None else min(max(0.0, seconds), MOST_WAIT)


def _number(written: object) -> float | None:
    """Of `7` or `0.5`."""
    if isinstance(written, (int, float)) and not isinstance(written, bool):
        written = str(written)
    found = re.fullmatch(rf"\s*({_AMOUNT})\s*", written) if isinstance(written, str) else None
    return float(found[1]) if found else None


def _duration(written: object) -> float | None:
    """Seconds of `7s`, `3000ms`, `1m5s`, `2 minutes`, or of a number alone."""
    number = _number(written)
    if number is not None or not isinstance(written, str):
        return number
    text = written[:200].strip().lower()
    if not re.fullmatch(_DURATION, text):
        return None
    return sum(
        float(many) * _SECONDS[_unit(unit)] for many, unit in re.findall(rf"({_AMOUNT}) ?({_UNIT})", text)
    )


def _unit(written: str) -> str:
    return written if written == "ms" else "mil" if written.startswith(("mil", "mse")) else written[0]


def _date(written: str) -> float | None:
    """Unix time of an HTTP date or of one as ISO 8601 has it."""
    text = written[:100].strip()
    try:
        if re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]", text):
            at = dt.datetime.fromisoformat(text)
            return (at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC)).timestamp()
        parsed = email.utils.parsedate_tz(text)
        return None if parsed is None else float(email.utils.mktime_tz(parsed))
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _stated_delay(error: dict[str, Any], details: list[Any], words: str) -> float | None:
    """Of google.rpc.RetryInfo, of a field `retry_after`, or of `Please try again in 7m12s`."""
    delays = [each.get("retryDelay") for each in details if isinstance(each, dict)]
    said = _IN_WORDS.search(words[:_SEARCHED])
    delays += [error.get("retry_after"), said[1] if said else None]
    seconds = next((n for n in map(_duration, delays) if n is not None), None)
    return None if seconds is None else min(seconds, MOST_WAIT)


def _snake(word: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]+", "_", word).lower()
