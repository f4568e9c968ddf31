"""What an operator of the service may set: one tree of Structs and one `validate()`.

The tree is closed (an unknown key is an error) and every field carries the description from which
`dub5 config schema` and docs/configuration.md are generated. Reading it from a file and the environment is
`loader`'s work; this module only says what is valid.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec
from msgspec import Meta

from dub5.contract import MOST_CANARIES
from dub5.errors import ConfigError
from dub5.settings import addresses

MAX_FILE = 8 * 2**20
"""Bytes of a file that an operator writes: configuration, keys, a secret, certificates."""

_READ_AT_ONCE = 2**18
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _quoted(written: object) -> str:
    text = str(written) if not isinstance(written, int) or abs(written) < 10**30 else "this number"
    return f"`{text if len(text) <= 60 else text[:60] + '…'}`"


MOST_TOKENS = 2**31 - 1
"""The highest number of tokens that a request or a setting may name."""


class Duration(float):
    """Seconds. Written `300ms`, `10s`, `1m`, `1h`, `1d`, or a plain number of seconds."""

    __slots__ = ()
    LIMIT: ClassVar[int] = 10 * 365 * 86400

    @classmethod
    def parse(cls, written: object) -> Duration:
        if isinstance(written, (int, float)) and not isinstance(written, bool):
            seconds: float = written
        else:
            match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", str(written))
            if match is None:
                raise ValueError(
                    f"{_quoted(written)} is not a duration; write for example 300ms, 10s, 5m, 1h or 1d"
                )
            seconds = float(match[1]) * _DURATION_UNITS[match[2]]
        if not 0 <= seconds < cls.LIMIT:
            raise ValueError(f"{_quoted(written)} is outside 0s to 10 years")
        return cls(seconds)

    def written(self) -> str:
        """As people write it, in the largest unit that gives a whole number: `10s`, not `10.0`."""
        for unit in ("d", "h", "m", "s"):
            count = self / _DURATION_UNITS[unit]
            if count >= 1 and count == int(count):
                return f"{int(count)}{unit}"
        milliseconds = f"{float(self) * 1000:.6f}".rstrip("0").rstrip(".")
        return f"{milliseconds}ms" if self else "0s"


class Size(int):
    """Bytes. Written `256KiB`, `1MiB`, `2GB`, or a plain number of bytes."""

    __slots__ = ()
    LIMIT: ClassVar[int] = 2**50

    @classmethod
    def parse(cls, written: object) -> Size:
        match = re.fullmatch(r"([0-9]{1,18}) ?([A-Za-z]*)", str(written))
        if match is None or match[2] not in _SIZE_UNITS:
            raise ValueError(f"{_quoted(written)} is not a size; write for example 256KiB, 1MiB or 2GB")
        size = int(match[1]) * _SIZE_UNITS[match[2]]
        if size > cls.LIMIT:
            raise ValueError(f"{_quoted(written)} is more than 1 PiB")
        return cls(size)

    def written(self) -> str:
        """As people write it, in the largest binary unit that gives a whole number: `1MiB`."""
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % _SIZE_UNITS[unit] == 0:
                return f"{self // _SIZE_UNITS[unit]}{unit}"
        return f"{int(self)}B"


def _constant(value: Any) -> Any:
    """A default that msgspec's schema generator cannot write down itself; `schema` does."""
    return msgspec.field(default_factory=lambda: value)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A closed part of the configuration."""


class Source(Section, frozen=True):
    """Where a secret comes from: an environment variable or a file, never the configuration itself."""

    env: Annotated[str | None, Meta(description="Name of the environment variable that holds the value.")] = (
        None
    )
    file: Annotated[str | None, Meta(description="Path of the file that holds the value.")] = None


Port = Annotated[int, Meta(ge=0, le=65535)]
Name = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", max_length=100, description="letters, digits and . _ : -"),
]
PublicName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+~=-]*(/[A-Za-z0-9][A-Za-z0-9._:+~=-]*)*$",
        max_length=100,
        description="letters, digits and . _ : + ~ = -, in parts joined by /",
    ),
]
"""What callers write as `model`, in the forms that model servers have: `meta-llama/Llama-3.1-8B-Instruct`, `llama3:8b`.

No `@`: in the names of purges it stands before a tenant.
"""

ModelName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9*][A-Za-z0-9._:+~=*-]*(/[A-Za-z0-9*][A-Za-z0-9._:+~=*-]*)*$",
        max_length=100,
        description="letters, digits and . _ : + ~ = -, in parts joined by /, and one `*`",
    ),
]
"""The same, or a pattern."""


BaseUrl = Annotated[str, Meta(extra_json_schema={"pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^/]"})]
"""The pattern is for the schema alone: `validate` says it in a sentence."""


class ServerSettings(Section, frozen=True):
    host: Annotated[str, Meta(description="Address of the public listener. Any but loopback needs keys.")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, Meta(description="Port of the public listener; 0 takes a free one.")] = 8000
    operations_host: Annotated[
        str | None, Meta(description="Address of the operations listener; the public one's where absent.")
    ] = None
    operations_port: Annotated[Port, Meta(description="Port of /livez, /readyz and /metrics.")] = 9000
    page: Annotated[bool, Meta(description="Serve the chat page at `/`.")] = True
    allowed_origins: Annotated[
        list[str],
        Meta(
            description="Origins of other sites whose pages may call this service and read its answers (CORS), such as "
            "`https://chat.example.com` or `app://obsidian.md`; `*`: all. Pages of any other origin need a valid key."
        ),
    ] = []
    allowed_hosts: Annotated[
        list[str],
        Meta(
            description="Where there are no keys: names and addresses, without a port, by which clients call it "
            "besides loopback's own and the address that they reach; `*.example.com`: all names below that one, "
            "`*`: any. Others get 421, since a web page can point a name of its own here."
        ),
    ] = []
    max_body: Annotated[Size, Meta(description="Largest request body, counted while it arrives.")] = (
        _constant(Size(20 * 2**20))
    )
    max_arriving: Annotated[
        Size | None,
        Meta(
            description="Memory for requests that are arriving or wait for their answer; by default 30 % of what the "
            "container may use. Past it the largest incomplete one is refused."
        ),
    ] = None
    max_stream: Annotated[Duration, Meta(description="Longest life of one answer, first byte to last.")] = (
        _constant(Duration(600))
    )
    heartbeat: Annotated[
        Duration,
        Meta(
            description="Silence after which a client that waits for a stream gets a comment, at first with the head: "
            "from then on the status is 200 and a failure is told by an event. 0 is off."
        ),
    ] = _constant(Duration(30))
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            description="Connections to the public listener; past that the longest idle one is closed for a new one. "
            "Fewer where there are fewer file descriptors.",
        ),
    ] = 10_000
    read_timeout: Annotated[
        Duration, Meta(description="Longest time in which a request arrives, first byte to last.")
    ] = _constant(Duration(30))
    write_timeout: Annotated[
        Duration,
        Meta(description="Longest time in which a client takes 64 KiB of its answer, where that much waits."),
    ] = _constant(Duration(30))
    keep_alive: Annotated[
        Duration,
        Meta(
            description="How long a client's connection is kept without a request. Longer than the load balancer in "
            "front keeps its own: 620s behind Google's, 65m behind Envoy with its defaults."
        ),
    ] = _constant(Duration(75))


class DrainSettings(Section, frozen=True):
    linger: Annotated[
        Duration,
        Meta(description="How long after SIGTERM new requests on open connections are still answered."),
    ] = _constant(Duration(10))


_REDIS_SCHEME = r"rediss?(\+sentinel|\+cluster)?"


class RedisSettings(Section, frozen=True):
    url: Annotated[
        str,
        Meta(
            description="Redis of all replicas: redis://, redis+sentinel:// or redis+cluster://; rediss for TLS.",
            # What is not so is refused below, in words.
            extra_json_schema={"pattern": f"^{_REDIS_SCHEME}://"},
        ),
    ]
    timeout: Annotated[
        Duration, Meta(description="Longest wait for one answer of Redis, at most 100 ms.")
    ] = _constant(Duration(0.1))
    username: Annotated[str | None, Meta(description="ACL user; the URL's where absent.")] = None
    password: Annotated[Source | None, Meta(description="Password; the URL's where absent.")] = None
    ca_file: Annotated[
        str | None, Meta(description="CA bundle for rediss://; the system's where absent.")
    ] = None


class Timeouts(Section, frozen=True):
    connect: Annotated[Duration, Meta(description="Longest wait for a connection.")] = _constant(Duration(5))
    first_token: Annotated[
        Duration,
        Meta(
            description="Longest silence before the first token of a streamed answer; the provider's own keep-alives "
            "are none."
        ),
    ] = _constant(Duration(300))
    between_tokens: Annotated[Duration, Meta(description="Longest silence inside a streamed answer.")] = (
        _constant(Duration(30))
    )
    total: Annotated[Duration, Meta(description="Longest duration of one call in all.")] = _constant(
        Duration(600)
    )


class ProviderSettings(Section, frozen=True, tag_field="kind"):
    """What every kind of provider has."""


class Quirk(Section, frozen=True):
    """How the requests to a model differ from the common ones."""

    drop: Annotated[
        list[str],
        Meta(
            description="Fields that models with this name (or pattern, `my-o3*`) do not take and that are left out, "
            "also a caller's own. Built in for OpenAI's `o1`, `o3`, `o4-mini`, `gpt-5`, …: `temperature`, `top_p`, "
            "penalties, `logit_bias`."
        ),
    ] = []
    refuse: Annotated[
        list[str],
        Meta(
            description="Fields that they cannot do: where a caller asks for one, the next route is asked. Built in "
            "for those: `logprobs`, `top_logprobs`, `stop`."
        ),
    ] = []
    rename: Annotated[
        dict[str, str],
        Meta(
            description="Fields under another name. Built in for those: `max_tokens: max_completion_tokens`."
        ),
    ] = {}
    roles: Annotated[
        dict[str, str], Meta(description="Roles of messages under another name, such as `developer: system`.")
    ] = {}
    unless: Annotated[
        dict[str, str],
        Meta(
            description="Where a request has one of these values, such as `reasoning_effort: none`, `drop` and "
            "`refuse` do not hold."
        ),
    ] = {}


class HttpProviderSettings(ProviderSettings, frozen=True):
    api_key: Annotated[Source | None, Meta(description="The provider's key.")] = None
    api_key_header: Annotated[
        str | None,
        Meta(
            description="Header that carries the key as it is, such as `api-key` for Azure. Absent, or "
            "`authorization`: as `Bearer KEY`; for kind anthropic absent is `x-api-key`."
        ),
    ] = None
    headers: Annotated[dict[str, str], Meta(description="Further headers of each call; no secrets.")] = {}
    secret_headers: Annotated[
        dict[str, Annotated[Source, Meta(description="A further header whose whole value is a secret.")]],
        Meta(description="Further headers whose whole values are secrets, such as those for a gateway."),
    ] = {}
    proxy: Annotated[
        str | None,
        Meta(
            description="HTTP proxy to the provider, such as http://proxy.example:3128; `none`: directly. Absent: as "
            "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY in the environment say."
        ),
    ] = None
    proxy_username: Annotated[
        str | None,
        Meta(description="User name for the proxy; that in the environment's address where absent."),
    ] = None
    proxy_password: Annotated[Source | None, Meta(description="Its password.")] = None
    ca_file: Annotated[
        str | None,
        Meta(
            description="CA bundle in PEM for the provider, and for a proxy at https://; absent: what SSL_CERT_FILE or "
            "SSL_CERT_DIR names, else the authorities of certifi."
        ),
    ] = None
    timeouts: Annotated[Timeouts, Meta(description="How long to wait for this provider.")] = _constant(
        Timeouts()
    )
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            description="Most calls at once from each replica. Fewer while the provider answers 429 or is late, and "
            "where there are few file descriptors.",
        ),
    ] = 1000
    quirks: Annotated[
        dict[str, Quirk],
        Meta(
            description="What its models take otherwise, by their names or patterns of them; the first that matches "
            "replaces what is built in."
        ),
    ] = {}


class EmbeddingsSettings(Section, frozen=True):
    """How a provider takes calls for vectors."""

    max_items: Annotated[
        int,
        Meta(
            ge=1,
            le=2048,
            description="Texts in one call; larger batches are split. OpenAI takes 2048; some servers 32 or fewer.",
        ),
    ] = 256
    max_bytes: Annotated[
        Size, Meta(description="Bytes of the texts in one call, as JSON. One text alone may be longer.")
    ] = _constant(Size(512 * 2**10))
    encoding_format: Annotated[
        Literal["base64", "float"],
        Meta(description="In which vectors are asked for. `float` only for servers that refuse `base64`."),
    ] = "base64"


class OpenAISettings(HttpProviderSettings, frozen=True, tag="openai"):
    """Anything that speaks OpenAI Chat Completions: OpenAI, Azure, vLLM, Ollama, …"""

    base_url: Annotated[
        BaseUrl,
        Meta(
            description="Up to and with the version, such as https://api.openai.com/v1; without a path `/v1` is added. "
            "A query, such as Azure's ?api-version=…, goes behind the path of each call."
        ),
    ] = "https://api.openai.com/v1"
    stream_usage: Annotated[
        bool,
        Meta(
            description="Ask for token counts in streams. Off only for servers that refuse `stream_options`."
        ),
    ] = True
    embeddings: Annotated[EmbeddingsSettings, Meta(description="How its vectors are asked for.")] = _constant(
        EmbeddingsSettings()
    )


class AnthropicSettings(HttpProviderSettings, frozen=True, tag="anthropic"):
    """Anthropic's Messages API, translated both ways."""

    base_url: Annotated[BaseUrl, Meta(description="With its version, `/v1`, or without.")] = (
        "https://api.anthropic.com"
    )
    max_tokens: Annotated[
        int,
        Meta(
            ge=1,
            le=MOST_TOKENS,
            description="Sent where the request has no limit, since this API demands one.",
        ),
    ] = 4096


class SimulatedSettings(ProviderSettings, frozen=True, tag="simulated"):
    """No network: deterministic answers made from the messages, at a set pace."""

    first_token: Annotated[Duration, Meta(description="Time to the first token.")] = _constant(Duration(0.3))
    tokens_per_second: Annotated[float, Meta(gt=0, description="Pace of the tokens after it.")] = 60.0


AnyHttpProvider = OpenAISettings | AnthropicSettings
AnyProvider = AnyHttpProvider | SimulatedSettings


class Price(Section, frozen=True):
    input: Annotated[float, Meta(ge=0, description="$ per million prompt tokens.")] = 0.0
    output: Annotated[float, Meta(ge=0, description="$ per million answer tokens.")] = 0.0
    cached_input: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(
            description="$ per million prompt tokens that the provider's own cache had; `input` where absent."
        ),
    ] = None


class ModelSettings(Section, frozen=True):
    routes: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="`provider/model` in the order of trying; the next one where one fails. Under a name with a "
            "`*`, such as `*` or `router/*`, `provider/*` stands for each model that the provider lists.",
        ),
    ]
    weights: Annotated[
        dict[str, Annotated[float, Meta(gt=0)]],
        Meta(
            description="Shares of the first tries by route; routes without one are only asked where those fail. "
            "Absent: in order."
        ),
    ] = {}
    hedge: Annotated[
        bool,
        Meta(
            description="Make a second call where the first is slower than 95 % of the latest; the first answer "
            "wins. Costs up to 5 % more calls."
        ),
    ] = False
    price: Annotated[Price, Meta(description="What its tokens cost.")] = _constant(Price())
    cache_class: Annotated[str, Meta(description="Class of answers asked for by the model's own name.")] = (
        "default"
    )
    kind: Annotated[
        Literal["chat", "embedding"], Meta(description="What it makes, as GET /v1/models tells.")
    ] = "chat"
    context_window: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None,
        Meta(description="Tokens of a prompt and its answer together, as GET /v1/models tells."),
    ] = None


Sampling = Literal[
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "n",
    "reasoning_effort",
    "verbosity",
    "service_tier",
]
"""Fields that may have a default."""

Lockable = Literal[
    Sampling,
    "best_of",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "prediction",
    "modalities",
    "audio",
    "web_search_options",
    "tools",
    "response_format",
]


class PersonalitySettings(Section, frozen=True):
    description: Annotated[str, Meta(description="One line for people, in GET /v1/personalities.")] = ""
    system: Annotated[str, Meta(description="The system prompt; the caller's own comes after it.")] = ""
    messages: Annotated[
        list[dict[str, Any]],
        Meta(description="Canonical messages after the system prompt, such as examples."),
    ] = []
    model: Annotated[str | None, Meta(description="One of `models`; the first where absent.")] = None
    cache_class: Annotated[str, Meta(description="One of `cache.classes`, or `default`.")] = "default"
    locked: Annotated[
        list[Lockable],
        Meta(
            description="Fields that a caller may not set, under any of their names. `max_tokens` also locks what else "
            "makes an answer longer or dearer: `n`, `best_of`, `reasoning_effort`, `service_tier`, `prediction`, "
            "`modalities`, `web_search_options`, `logprobs`. `tools` also locks `web_search_options`. Where one of all "
            "these is locked, fields that are unknown here are refused too."
        ),
    ] = []
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None, Meta(description="Default of this field.")
    ] = None
    top_p: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None, Meta(description="Default of this field.")
    ] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None, Meta(description="Default of this field.")
    ] = None
    max_completion_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None, Meta(description="Default of this field.")
    ] = None
    presence_penalty: Annotated[
        Annotated[float, Meta(ge=-2, le=2)] | None, Meta(description="Default of this field.")
    ] = None
    frequency_penalty: Annotated[
        Annotated[float, Meta(ge=-2, le=2)] | None, Meta(description="Default of this field.")
    ] = None
    seed: Annotated[int | None, Meta(description="Default of this field.")] = None
    stop: Annotated[str | list[str] | None, Meta(description="Default of this field.")] = None
    n: Annotated[Annotated[int, Meta(ge=1, le=128)] | None, Meta(description="Default of this field.")] = None
    reasoning_effort: Annotated[str | None, Meta(description="Default of this field.")] = None
    verbosity: Annotated[str | None, Meta(description="Default of this field.")] = None
    service_tier: Annotated[str | None, Meta(description="Default of this field.")] = None

    def sampling(self) -> dict[str, Any]:
        """The sampling defaults that are set."""
        fields = {name: getattr(self, name) for name in get_args(Sampling)}
        return {name: value for name, value in fields.items() if value is not None}


class CacheClass(Section, frozen=True):
    """How answers of one kind are kept."""

    ttl: Annotated[Duration, Meta(description="How long an answer is fresh.")] = _constant(Duration(300))
    max_ttl: Annotated[
        Duration, Meta(description="Longest TTL that a published policy may set, whatever it says.")
    ] = _constant(Duration(86400))
    stale_while_revalidate: Annotated[
        Duration, Meta(description="How long after its TTL an answer is served while a new one is fetched.")
    ] = _constant(Duration(0))
    stale_if_error: Annotated[
        Duration, Meta(description="How long after its TTL an answer is served where every provider fails.")
    ] = _constant(Duration(0))
    share: Annotated[
        Literal["tenant", "user", "public"], Meta(description="Who may be given an answer made for another.")
    ] = "tenant"
    cacheable: Annotated[Literal["always", "never"], Meta(description="`never` turns caching off.")] = (
        "always"
    )
    max_temperature: Annotated[
        float, Meta(ge=0, le=2, description="Answers asked for at a higher temperature are not cached.")
    ] = 1.0
    tool_results: Annotated[
        bool, Meta(description="Cache answers to conversations that hold results of tools.")
    ] = False
    compare: Annotated[
        Literal["exact", "text", "json", "sketch"],
        Meta(
            description="When a new answer counts as changed, for the operator: to the letter, as text, as JSON, or "
            "in most of its words and any of its numbers."
        ),
    ] = "text"
    canary: Annotated[
        float,
        Meta(
            ge=0,
            le=MOST_CANARIES,
            description="Share of provider calls to spend on asking again for hits drawn at random, to measure how "
            "many are stale; 0: none.",
        ),
    ] = 0.0


class CacheSettings(Section, frozen=True):
    enabled: Annotated[bool, Meta(description="`false`: every request goes to a provider.")] = True
    re_ask_share: Annotated[
        float,
        Meta(
            ge=0,
            le=0.01,
            description="Share of provider calls to spend on asking again, to tell noise from change; 0: none.",
        ),
    ] = 0.0
    sample_bytes: Annotated[
        Size,
        Meta(description="Bytes per second and replica of samples for the operator, in Redis; 0 takes none."),
    ] = _constant(Size(2 * 2**10))
    local_bytes: Annotated[
        Size,
        Meta(
            description="Memory for answers in each replica; up to half of it, or 16 MiB, and 16 MiB more for requests "
            "known by their bytes, and an eighth for what is known of questions."
        ),
    ] = _constant(Size(64 * 2**20))
    max_entry: Annotated[Size, Meta(description="Larger answers are not stored.")] = _constant(
        Size(256 * 2**10)
    )
    classes: Annotated[
        dict[Name, CacheClass], Meta(description="Classes by name; `default` is there without being listed.")
    ] = {}

    def named(self, name: str) -> CacheClass:
        return self.classes.get(name) or CacheClass()


class ResponsesSettings(Section, frozen=True):
    """What is kept of `POST /v1/responses`, for clients that refer to an answer by its id. Needs Redis."""

    store: Annotated[
        bool,
        Meta(
            description="`false`: nothing is kept, whatever a request says, and nothing can be referred to."
        ),
    ] = True
    ttl: Annotated[Duration, Meta(description="How long a Response is kept after it was last used.")] = (
        _constant(Duration(3600))
    )
    max_bytes_per_tenant: Annotated[
        Size, Meta(description="Bytes of one tenant's Responses in Redis; the oldest go first.")
    ] = _constant(Size(8 * 2**20))


class AuthSettings(Section, frozen=True):
    keys: Annotated[
        Source | None,
        Meta(
            description="YAML of SHA-256 digests: `<hex>: {tenant: acme, roles: [chat]}`, perhaps with `models` and "
            "`expires`: see secrets.md."
        ),
    ] = None
    anonymous: Annotated[
        bool, Meta(description="Serve everybody, on any address. Refused together with keys.")
    ] = False


class AdmissionSettings(Section, frozen=True):
    """How much work one replica takes on."""

    max_inflight: Annotated[
        int,
        Meta(
            ge=1,
            description="Provider calls at once: the replica's capacity. One model of several holds at most 80 %. "
            "Fewer where there are few file descriptors.",
        ),
    ] = 200
    max_queued: Annotated[int, Meta(ge=0, description="Requests that may wait for a provider call.")] = 400
    queue_timeout: Annotated[
        Duration, Meta(description="Longest wait for one; who would wait longer is turned away at once.")
    ] = _constant(Duration(10))


_MOST_A_MINUTE = 10**12
"""Exact in a double, and so in Redis, with its fractions."""


class Limit(Section, frozen=True):
    """Rates of one tenant, over all replicas."""

    requests_per_minute: Annotated[
        Annotated[int, Meta(ge=1, le=_MOST_A_MINUTE)] | None,
        Meta(description="Requests, hits included; absent: no limit."),
    ] = None
    tokens_per_minute: Annotated[
        Annotated[int, Meta(ge=1, le=_MOST_A_MINUTE)] | None,
        Meta(
            description="Tokens of prompts and answers that providers made; absent: no limit. A request reserves what "
            "it may take, but at most 10 minutes' worth, and counts for what it took, but at most an hour's worth."
        ),
    ] = None


class TelemetrySettings(Section, frozen=True):
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="`auto`: readable on a terminal, else JSON lines."),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least level shown.")
    ] = "info"
    tracing: Annotated[
        bool, Meta(description="Export OpenTelemetry spans as OTEL_* variables say; needs `dub5[otel]`.")
    ] = False


def builtin_personalities() -> dict[str, PersonalitySettings]:
    """What there is where the configuration names no personality."""
    return {
        "assistant": PersonalitySettings(
            description="Answers plainly and briefly; says so when it does not know.",
            system=(
                "You are a helpful assistant. Answer the question that was asked, in plain words, the most useful "
                "sentence first. Be brief unless asked for depth. If you do not know or cannot be sure, say so; "
                "never invent facts, sources or numbers. Answer in the language of the question."
            ),
            temperature=0.3,
        ),
        "coder": PersonalitySettings(
            description="A senior engineer: working code first, then why.",
            system=(
                "You are a senior software engineer. Give complete, working code in a fenced block with its language "
                "named, then explain the choices that matter in a few sentences. Handle errors, name things well, "
                "and prefer the standard library. Point out security or data-loss risks. When the request is "
                "ambiguous, state the assumption you made instead of asking."
            ),
            temperature=0.1,
        ),
        "tutor": PersonalitySettings(
            description="Teaches step by step and checks understanding.",
            system=(
                "You are a patient tutor. Lead the learner to the answer in small numbered steps, each with its "
                "reason, using one concrete example. Define a term when you first use it. Correct mistakes kindly "
                "and exactly. End with one short question that checks understanding."
            ),
            temperature=0.5,
        ),
    }


class Settings(Section, frozen=True):
    """The whole configuration; the defaults alone make a service that runs with no file at all."""

    server: Annotated[ServerSettings, Meta(description="Where it listens, and its limits.")] = _constant(
        ServerSettings()
    )
    drain: Annotated[DrainSettings, Meta(description="How a replica leaves.")] = _constant(DrainSettings())
    redis: Annotated[
        RedisSettings | None, Meta(description="The cache that replicas share; absent: in memory only.")
    ] = None
    providers: Annotated[dict[Name, AnyProvider], Meta(description="Who makes the answers, by name.")] = (
        msgspec.field(default_factory=lambda: {"demo": SimulatedSettings()})
    )
    models: Annotated[
        dict[ModelName, ModelSettings],
        Meta(
            description="What callers may ask for, by name, or by a pattern with one `*`.",
            extra_json_schema={"minProperties": 1},
        ),
    ] = msgspec.field(default_factory=lambda: {"demo": ModelSettings(routes=["demo/simulated"])})
    personalities: Annotated[
        dict[PublicName, PersonalitySettings],
        Meta(description="Ways of answering, used like models. Naming any replaces the built-in ones."),
    ] = msgspec.field(default_factory=builtin_personalities)
    cache: Annotated[CacheSettings, Meta(description="Which answers are kept, and for how long.")] = (
        _constant(CacheSettings())
    )
    responses: Annotated[ResponsesSettings, Meta(description="Which Responses can be referred to.")] = (
        _constant(ResponsesSettings())
    )
    auth: Annotated[AuthSettings, Meta(description="Who may call.")] = _constant(AuthSettings())
    admission: Annotated[AdmissionSettings, Meta(description="How much work a replica takes on.")] = (
        _constant(AdmissionSettings())
    )
    limits: Annotated[
        dict[Name, Limit],
        Meta(description="Rates by tenant; `default` is for those not named. Absent: no limits."),
    ] = {}
    telemetry: Annotated[TelemetrySettings, Meta(description="Logs and traces.")] = _constant(
        TelemetrySettings()
    )

    def model_of(self, personality: PersonalitySettings) -> str:
        return personality.model or self.default_model

    @property
    def default_model(self) -> str:
        """The first that is one, and no pattern; empty where there is none."""
        return next((name for name in self.models if "*" not in name), "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def validate(settings: Settings) -> None:
    """Check what crosses sections; ConfigError names the key and the sentence that mends it."""
    _validate_auth(settings)
    if settings.redis is not None:
        _validate_redis(settings.redis)
    _validate_server(settings.server)
    if not settings.models:
        raise ConfigError("models: name at least one")
    for name, provider in settings.providers.items():
        if isinstance(provider, AnyHttpProvider):
            _validate_provider(f"providers.{name}", provider)
    for name, model in settings.models.items():
        for route in model.routes:
            provider_name, _, upstream = route.partition("/")
            if not upstream:
                raise ConfigError(f"models.{name}.routes: `{route}` must be written provider/model")
            _known(f"models.{name}.routes", provider_name, settings.providers, "providers")
        _validate_pattern(f"models.{name}", name, model)
        for route in model.weights:
            _known(f"models.{name}.weights", route, dict.fromkeys(model.routes), f"models.{name}.routes")
        _known_class(f"models.{name}.cache_class", model.cache_class, settings)
    for name, personality in settings.personalities.items():
        if name in settings.models:
            raise ConfigError(f"personalities.{name}: a model has the same name; rename one of them")
        ones = {model: each for model, each in settings.models.items() if "*" not in model}
        _known(f"personalities.{name}.model", settings.model_of(personality), ones, "models")
        _known_class(f"personalities.{name}.cache_class", personality.cache_class, settings)
        for index, message in enumerate(personality.messages):
            if not isinstance(message.get("role"), str):
                raise ConfigError(f"personalities.{name}.messages[{index}].role: missing")


def _validate_pattern(where: str, name: str, model: ModelSettings) -> None:
    stars = [route for route in model.routes if "*" in route]
    if "*" not in name:
        if stars:
            raise ConfigError(
                f"{where}.routes: `{stars[0]}` stands for many; the name needs a `*` as well, such as `*`"
            )
        return
    if name.count("*") > 1 or any(route.count("*") > 1 for route in stars):
        raise ConfigError(f"{where}: one `*` in the name and one in a route, not more")
    if not stars:
        raise ConfigError(f"{where}.routes: a name with a `*` needs a route with one, such as provider/*")


def _validate_auth(settings: Settings) -> None:
    auth, server = settings.auth, settings.server
    _validate_source("auth.keys", auth.keys)
    if auth.keys is not None and auth.anonymous:
        raise ConfigError("auth.anonymous: leave it out where auth.keys is set; keys would protect nothing")
    if auth.keys is None and not auth.anonymous and not is_loopback(server.host):
        raise ConfigError(
            f"server.host: refusing to listen on {server.host} without keys. "
            "Set auth.keys, or auth.anonymous: true to serve everybody who can reach it."
        )
    if auth.keys is None and not auth.anonymous and "*" in server.allowed_origins:
        raise ConfigError(
            "server.allowed_origins: refusing `*` without keys: every web page that is looked at on this machine could "
            "use the service. Name the origins, set auth.keys, or auth.anonymous: true to serve everybody."
        )


_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


def _validate_server(server: ServerSettings) -> None:
    for name in ("max_body", "max_arriving", "max_stream", "read_timeout", "write_timeout", "keep_alive"):
        if getattr(server, name) == 0:
            raise ConfigError(f"server.{name}: must be more than 0")
    same_host = server.operations_host in {None, server.host}
    if same_host and server.port == server.operations_port != 0:
        raise ConfigError(f"server.operations_port: {server.port} is server.port already; take another one")
    for index, origin in enumerate(server.allowed_origins):
        _validate_origin(f"server.allowed_origins[{index}]", origin)
    for index, host in enumerate(server.allowed_hosts):
        if not _is_host(host):
            raise ConfigError(
                f"server.allowed_hosts[{index}]: {_quoted(host)} is not a host; write for example chat.example.com, "
                "*.example.com or 10.0.0.5, without scheme and port"
            )


def _validate_origin(where: str, origin: str) -> None:
    if origin == "null":
        raise ConfigError(
            f"{where}: `null` is what any page can make of its origin; name one, or serve the page"
        )
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise ConfigError(
            f"{where}: {_quoted(origin)} is not an origin; write for example https://chat.example.com or "
            "http://localhost:3000, without a path"
        )


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host == "*" or _HOST_NAME.fullmatch(host) is not None
    return True


def _validate_redis(redis: RedisSettings) -> None:
    if not 0 < redis.timeout <= 0.1:
        raise ConfigError(
            "redis.timeout: must be more than 0 and at most 100ms, since every request may wait for it"
        )
    if ":" in redis.url.partition("://")[2].rpartition("@")[0]:
        raise ConfigError(
            "redis.url: secrets are never inline; write redis.password: {env: NAME} or {file: PATH}"
        )
    if "?" in redis.url or "#" in redis.url:
        raise ConfigError(
            "redis.url: ends with the number of the database; nothing behind a `?` or `#` would be read"
        )
    if not _is_redis_url(redis.url):
        raise ConfigError(
            "redis.url: not an address of Redis; write for example redis://host:6379/0, "
            "redis+sentinel://a:26379,b:26379/mymaster/0 or redis+cluster://a:6379,b:6379, which has one database"
        )
    _validate_source("redis.password", redis.password)


def _is_redis_url(url: str) -> bool:
    """Whether its parts are ones, and none of them is for another kind of Redis: what is not read must not be there."""
    scheme, behind, rest = url.partition("://")
    if not behind or not re.fullmatch(_REDIS_SCHEME, scheme):
        return False
    authority, _, path = rest.partition("/")
    hosts = authority.rpartition("@")[2].split(",")
    for host in hosts:
        match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.%a-z]+\]|[^:\[\]\s]*)(?::(\d{1,5}))?", host)
        if match is None or not 0 < int(match[1] or 1) < 65536:
            return False
    parts = [part for part in path.split("/") if part]
    match scheme.partition("+")[2]:
        case "sentinel":
            return len(parts) == 1 or (len(parts) == 2 and parts[1].isdigit())
        case "cluster":
            return parts in ([], ["0"])
    return len(hosts) == 1 and (not parts or (len(parts) == 1 and parts[0].isdigit()))


_OURS = frozenset(
    (
        *("content-type", "content-length", "transfer-encoding", "accept-encoding", "te", "trailer"),
        *("connection", "keep-alive", "upgrade", "expect", "proxy-connection", "proxy-authorization"),
        *("traceparent", "tracestate", "anthropic-version"),
    )
)
"""Headers that are set where a call is made, and mean something to the connection or to us."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A name of a header: RFC 9110 section 5.6.2."""


def _validate_provider(where: str, provider: AnyHttpProvider) -> None:
    """What can be said of one without its secrets and files."""
    try:
        root_of(provider)
    except ValueError as error:
        raise ConfigError(f"{where}.base_url: {error}") from None
    for name in ("connect", "first_token", "between_tokens", "total"):
        if not getattr(provider.timeouts, name):
            raise ConfigError(f"{where}.timeouts.{name}: must be more than 0")
    _validate_timeouts(f"{where}.timeouts", provider.timeouts)
    for pattern, quirk in provider.quirks.items():
        _validate_quirk(f"{where}.quirks.{pattern}", quirk)
    _validate_source(f"{where}.api_key", provider.api_key)
    _validate_headers(where, provider)
    _validate_proxy(where, provider)


def _validate_timeouts(where: str, timeouts: Timeouts) -> None:
    """A limit that can never pass is a mistake; a default, with a short `total`, is none."""
    usual = Timeouts()
    for name in ("connect", "first_token", "between_tokens"):
        limit = getattr(timeouts, name)
        if limit > timeouts.total and limit != getattr(usual, name):
            raise ConfigError(f"{where}.{name}: longer than `total`, and would never pass")


_NEEDED = frozenset({"messages", "model", "stream"})
"""Fields of a request without which it is none."""


def _validate_quirk(where: str, quirk: Quirk) -> None:
    for section, names in (("drop", quirk.drop), ("refuse", quirk.refuse), ("rename", quirk.rename)):
        for name in names:
            if name in _NEEDED:
                raise ConfigError(f"{where}.{section}: no request can do without `{name}`")


def _validate_headers(where: str, provider: AnyHttpProvider) -> None:
    if provider.api_key_header is not None:
        _validate_header(f"{where}.api_key_header", provider.api_key_header)
    taken = {key_header(provider)} if provider.api_key is not None else set()
    for section, headers in (("headers", provider.headers), ("secret_headers", provider.secret_headers)):
        for name in headers:
            _validate_header(f"{where}.{section}.{name}", name)
            if name.lower() in taken:
                raise ConfigError(
                    f"{where}.{section}.{name}: this header is there already; leave one of them out"
                )
            taken.add(name.lower())
    for name, value in provider.headers.items():
        if addresses.is_secret(name, value):
            raise ConfigError(
                f"{where}.headers.{name}: secrets are never inline; write api_key, or "
                f"secret_headers: {{{name}: {{env: NAME}}}}"
            )
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(f"{where}.headers.{name}: must be printable ASCII")
    for name, source in provider.secret_headers.items():
        _validate_source(f"{where}.secret_headers.{name}", source)


def _validate_header(where: str, name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ConfigError(f"{where}: {_quoted(name)} cannot be the name of a header")
    if name.lower() in _OURS:
        raise ConfigError(f"{where}: this header is the service's own")


def _validate_proxy(where: str, provider: AnyHttpProvider) -> None:
    _validate_source(f"{where}.proxy_password", provider.proxy_password)
    if (provider.proxy_username is None) != (provider.proxy_password is None):
        raise ConfigError(f"{where}: set both of proxy_username and proxy_password, or neither")
    if provider.proxy_username is not None:
        if goes_directly(provider):
            raise ConfigError(f"{where}.proxy_username: leave it out where there is no proxy")
        if ":" in provider.proxy_username or not provider.proxy_username.isprintable():
            raise ConfigError(f"{where}.proxy_username: must be printable, without a colon")
    if provider.proxy is not None and not goes_directly(provider):
        try:
            addresses.named_proxy(provider.proxy)
        except ValueError as error:
            raise ConfigError(f"{where}.proxy: {error}") from None


def root_of(provider: AnyHttpProvider) -> addresses.Root:
    """Where its API begins; ValueError where `base_url` cannot be that."""
    if isinstance(provider, AnthropicSettings):
        return addresses.anthropic_root(provider.base_url)
    return addresses.openai_root(provider.base_url)


def key_header(provider: AnyHttpProvider) -> str:
    """The header that carries the key, in lower case."""
    usual = "x-api-key" if isinstance(provider, AnthropicSettings) else "authorization"
    return (provider.api_key_header or usual).lower()


def goes_directly(provider: HttpProviderSettings) -> bool:
    """Whether it is reached without a proxy whatever the environment says."""
    return provider.proxy is not None and provider.proxy.lower() in {"", "none"}


def _validate_source(where: str, source: Source | None) -> None:
    if source is not None and (source.env is None) == (source.file is None):
        raise ConfigError(f"{where}: set exactly one of env and file")
    if source is not None and not (source.env or source.file):
        raise ConfigError(f"{where}: names nothing")


def _known(where: str, name: str, known: dict[str, Any], section: str) -> None:
    if name not in known:
        raise ConfigError(
            f"{where}: `{name}` is not one of {section}: {', '.join(known) or 'none are defined'}"
        )


def _known_class(where: str, name: str, settings: Settings) -> None:
    if name != "default":
        _known(where, name, settings.cache.classes, "cache.classes")


def is_text(written: str) -> bool:
    """Whether UTF-8 can say it."""
    try:
        written.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_file(where: str, path: str | Path, opener: Callable[[str, int], int] | None = None) -> bytes:
    """A file of an operator's, whole. ConfigError, naming `where`, for one of more than MAX_FILE bytes; OSError."""
    with open(path, "rb", buffering=0, opener=opener) as file:
        content = bytearray()
        # Part by part: one read of so many bytes would take that much memory for the smallest file.
        while part := file.read(_READ_AT_ONCE):
            content += part
            if len(content) > MAX_FILE:
                raise ConfigError(f"{where}: {str(path)!r} is larger than {MAX_FILE // 2**20} MiB")
    return bytes(content)


def read_secret(where: str, source: Source, environment: Mapping[str, str]) -> str:
    """The value behind `source`, without surrounding white space; ConfigError where there is none."""
    if source.env is not None:
        value = environment.get(source.env, "").strip()
        if not value:
            raise ConfigError(f"{where}: the environment variable {source.env} is not set")
        return value
    try:
        value = read_file(where, source.file or "").decode().strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot read {source.file!r}: {type(error).__name__}") from None
    if not value:
        raise ConfigError(f"{where}: the file {source.file!r} is empty")
    return value


def reader(environment: Mapping[str, str]) -> Callable[[str, Source], str]:
    """`read_secret` with this environment."""
    return lambda where, source: read_secret(where, source, environment)
