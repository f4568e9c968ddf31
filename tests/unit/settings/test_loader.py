"""From file and environment to Settings: every mistake is answered with its key and what to write instead."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.errors import ConfigError
from dub5.settings.loader import convert, load, parse_yaml
from dub5.settings.model import MAX_FILE, Settings, SimulatedSettings
from tests.settings_strategies import configurations, junk

Json = dict[str, Any]
Write = Callable[[str], Path]

NO_TEXT = "holds half of a character, or bytes that are not UTF-8"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "dub5.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(written: Json) -> str:
    with pytest.raises(ConfigError) as caught:
        convert(written)
    return caught.value.message


def provider(**written: Any) -> Json:
    return {"providers": {"demo": written}}


def personality(**written: Any) -> Json:
    return {"personalities": {"p": written}}


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("written", "message"),
        [
            ({"servr": {}}, "servr: unknown key; did you mean `server`?"),
            ({"server": {"prot": 1}}, "server.prot: unknown key; did you mean `port`?"),
            (
                provider(kind="openai", baseurl="x"),
                "providers.demo.baseurl: unknown key; did you mean `base_url`?",
            ),
            (
                provider(kind="openai", timeouts={"conect": 1}),
                "providers.demo.timeouts.conect: unknown key; did you mean `connect`?",
            ),
            (
                provider(kind="openai", api_key={"envv": "K"}),
                "providers.demo.api_key.envv: unknown key; did you mean `env`?",
            ),
            (
                {"models": {"m": {"routes": ["demo/x"], "price": {"inputs": 1}}}},
                "models.m.price.inputs: unknown key; did you mean `input`?",
            ),
            (
                personality(temprature=1),
                "personalities.p.temprature: unknown key; did you mean `temperature`?",
            ),
            (
                {"cache": {"classes": {"c": {"tll": "1m"}}}},
                "cache.classes.c.tll: unknown key; did you mean `ttl`?",
            ),
            ({"drain": {"xyz": 1}}, "drain.xyz: unknown key; known here: linger"),
            ({"drain": {5: 1}}, "drain.5: unknown key; known here: linger"),
            ({"drain": {None: 1}}, "drain.None: unknown key; known here: linger"),
        ],
    )
    def test_are_named_with_the_nearest_that_is_known(self, written: Json, message: str) -> None:
        assert refusal(written) == message

    def test_a_key_of_another_kind_of_provider_is_unknown(self) -> None:
        assert refusal(provider(kind="simulated", base_url="x")).startswith(
            "providers.demo.base_url: unknown key"
        )


class TestWrongValues:
    @pytest.mark.parametrize(
        ("written", "message"),
        [
            ({"server": {"port": "http"}}, "server.port: Expected `int`, got `str`"),
            ({"server": {"port": 65536}}, "server.port: Expected `int` <= 65535"),
            ({"server": None}, "server: Expected `object`, got `null`"),
            (
                {"server": {"max_body": "1 megabyte"}},
                "server.max_body: `1 megabyte` is not a size; write for example 256KiB, 1MiB or 2GB",
            ),
            (
                provider(kind="simulated", first_token="fast"),
                "providers.demo.first_token: `fast` is not a duration; write for example 300ms, 10s, 5m, 1h or 1d",
            ),
            (
                provider(kind="opnai"),
                "providers.demo.kind: `opnai` is not one of openai, anthropic, simulated",
            ),
            (provider(kind=["openai"]), "providers.demo.kind: must be one of openai, anthropic, simulated"),
            (provider(), "providers.demo.kind: missing; one of openai, anthropic, simulated"),
            ({"providers": {"demo": 3}}, "providers.demo: Expected `object`, got `int`"),
            (
                provider(kind="openai", headers={"a": 1}),
                "providers.demo.headers.a: Expected `str`, got `int`",
            ),
            ({"providers": []}, "providers: Expected `object`, got `array`"),
            ({"models": {"m": {}}}, "models.m: Object missing required field `routes`"),
            ({"models": {"m": {"routes": []}}}, "models.m.routes: Expected `array` of length >= 1"),
            ({"models": {"m": {"routes": [3]}}}, "models.m.routes[0]: Expected `str`, got `int`"),
            (personality(temperature=3), "personalities.p.temperature: Expected `float` <= 2.0"),
            (personality(messages=["hi"]), "personalities.p.messages[0]: Expected `object`, got `str`"),
            (personality(stop=3), "personalities.p.stop: Expected `str | array | null`, got `int`"),
            (
                {"cache": {"classes": {"c": {"share": "all"}}}},
                "cache.classes.c.share: `all` is not one of tenant, user, public",
            ),
            (
                {"cache": {"classes": {"c": {"cacheable": False}}}},
                "cache.classes.c.cacheable: must be one of always, never",
            ),
            (
                {"telemetry": {"log_level": "INFO"}},
                "telemetry.log_level: `INFO` is not one of debug, info, warning, error",
            ),
            ({"redis": {}}, "redis: Object missing required field `url`"),
            (personality(system="\ud800"), f"personalities.p.system: {NO_TEXT}"),
            (personality(stop=["a", "\udcff"]), f"personalities.p.stop[1]: {NO_TEXT}"),
            (
                provider(kind="openai", quirks={"\ud800": {}}),
                "providers.demo.quirks: a key holds half of a character, or bytes that are not UTF-8",
            ),
            (
                {"models": {"m": {"routes": ["demo/x"], "weights": {"demo/x": math.inf}}}},
                "models.m.weights.demo/x: `inf` is not a finite number",
            ),
            (
                personality(messages=[{"role": "user", "content": [{1: 2}]}]),
                "personalities.p.messages[0].content[0]: the key `1` is not text; put it in quotes",
            ),
            (
                personality(messages=[{"role": "user", "content": date(2027, 1, 31)}]),
                "personalities.p.messages[0].content: `2027-01-31` is read as a date; put it in quotes",
            ),
            (
                personality(messages=[{"role": "user", "weight": math.nan}]),
                "personalities.p.messages[0].weight: `nan` is not a finite number",
            ),
        ],
    )
    def test_are_named_to_the_entry(self, written: Json, message: str) -> None:
        assert refusal(written) == message

    def test_each_word_of_a_list_is_looked_at(self) -> None:
        assert refusal(personality(locked=["seed", "mood"])).startswith(
            "personalities.p.locked[1]: `mood` is not one of temperature, top_p,"
        )

    @pytest.mark.parametrize(
        "name", ["", "with space", "-x", "ünïcode", "/a", "a/", "a//b", "a/../b", "a@b", "x" * 101]
    )
    def test_names_that_callers_could_not_write(self, name: str) -> None:
        assert refusal({"models": {name: {"routes": ["demo/x"]}}}).startswith(
            f"models: `{name}` cannot be a name;"
        )

    @pytest.mark.parametrize("name", [4, None, True, 1.5])
    def test_names_that_yaml_takes_for_something_else(self, name: object) -> None:
        assert refusal({"models": {name: {"routes": ["demo/x"]}}}) == (
            f"models: the key `{name}` is not text; put it in quotes"
        )


class TestSecretsAreNeverInline:
    @pytest.mark.parametrize(
        ("written", "where"),
        [
            (provider(kind="openai", api_key="sk-live-12345"), "providers.demo.api_key"),
            (provider(kind="anthropic", api_key="sk-live-12345"), "providers.demo.api_key"),
            ({"redis": {"url": "redis://x", "password": "sk-live-12345"}}, "redis.password"),
            ({"auth": {"keys": "sk-live-12345"}}, "auth.keys"),
        ],
    )
    def test_refused_without_showing_it(self, written: Json, where: str) -> None:
        assert refusal(written) == f"{where}: secrets are never inline; write {{env: NAME}} or {{file: PATH}}"


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("server: {}\ncache: {}\nserver: {}\n", "line 3: this key is written twice"),
            ("server:\n  port: 1\n  port: 2\n", "line 3: this key is written twice"),
            ("a: [", "line 1: not valid YAML: expected the node content, but found '<stream end>'"),
            ("a: 1\nb: : :\n", "line 2: not valid YAML: mapping values are not allowed here"),
            ("{[a]: b}", "line 1: not valid YAML: found unhashable key"),
            ("a: &x {b: *x}", "line 1: not valid YAML: found unconstructable recursive node"),
            (
                "a: !secret b",
                "line 1: not valid YAML: could not determine a constructor for the tag '!secret'",
            ),
            ("a: " + "[" * 5000, "not valid YAML: nested too deep"),
        ],
    )
    def test_malformed(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_yaml(text)
        assert caught.value.message == message

    @pytest.mark.parametrize("text", ["a: 2026-13-45", "a: 0b_"])
    def test_looks_like_a_value_and_is_none(self, text: str) -> None:
        with pytest.raises(ConfigError, match="put it in quotes"):
            parse_yaml(text)

    @pytest.mark.parametrize(
        "text", ["a: !!bool maybe", "a: !!timestamp soon", 'a: !!int ""', r'a: "\UFFFFFFFF"'], ids=str
    )
    @pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
    def test_is_said_to_be_a_value_and_is_none(self, text: str, padding: int) -> None:
        with pytest.raises(ConfigError, match=r"^(line 1: )?not valid YAML"):
            parse_yaml(text + "\n" + "#" * padding)

    def test_control_characters(self) -> None:
        with pytest.raises(ConfigError, match=r"^not valid YAML: unacceptable character #x0000"):
            parse_yaml("a: \0")

    @pytest.mark.parametrize("depth", [200, 100_000])
    @pytest.mark.parametrize("opening", ["[", "{", "- "])
    def test_nested_too_deep(self, opening: str, depth: int) -> None:
        with pytest.raises(ConfigError, match=r"^not valid YAML"):
            parse_yaml(opening * depth)

    @pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
    def test_aliases_that_stand_for_too_much(self, padding: int) -> None:
        bomb = ["a: &a [x, x]", *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefgh"))]
        with pytest.raises(ConfigError, match="more than 1000000 values"):
            parse_yaml("\n".join([*bomb, "#" * padding]))

    def test_aliases_that_stand_for_little(self) -> None:
        assert parse_yaml("a: &a [1]\nb: [*a, *a]") == {"a": [1], "b": [[1], [1]]}

    def test_too_many_values(self) -> None:
        with pytest.raises(ConfigError, match="more than 1000000 values"):
            parse_yaml("[" + "1," * 1_000_001 + "]")

    def test_a_large_text_is_read_as_a_small_one_is(self) -> None:
        text = "a: {b: 1e-07, c: [yes, 2, '3', null]}\nd: &d {x: 1}\ne: {<<: *d, y: 2026-01-02}\n"
        assert parse_yaml(text + "#" * 100_000) == parse_yaml(text)
        with pytest.raises(ConfigError, match=r"^line 2: this key is written twice$"):
            parse_yaml("a: 1\na: 2\n" + "#" * 100_000)
        with pytest.raises(ConfigError, match=r"^line 2: not valid YAML"):
            parse_yaml("a: [1\nb: 2]: 3\n" + "#" * 100_000)

    def test_a_merged_mapping_may_be_overridden(self) -> None:
        assert parse_yaml("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}")["y"] == {"a": 1, "b": 3}

    @pytest.mark.parametrize(
        ("written", "value"),
        [
            ("1e-07", 1e-7),
            ("2.5E-3", 0.0025),
            ("-1e-3", -0.001),
            ("1.e-2", 0.01),
            ("1e6", 1_000_000),
            ("2e+06", 2_000_000),
            ("1e999", "1e999"),
            ("e5", "e5"),
            ("1e", "1e"),
            ("1e5x", "1e5x"),
            ("0x1e5", 0x1E5),
            ("'1e-07'", "1e-07"),
        ],
    )
    def test_exponents_are_numbers_as_in_yaml_1_2(self, written: str, value: object) -> None:
        read = parse_yaml(f"a: {written}")["a"]
        assert read == value
        assert type(read) is type(value)

    @given(st.text())
    def test_any_text_is_data_or_a_refusal(self, text: str) -> None:
        with contextlib.suppress(ConfigError):
            parse_yaml(text)


class TestTheFile:
    def test_none_means_the_defaults(self) -> None:
        assert load(None, {}) == Settings()

    @pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "{}"])
    def test_an_empty_one_too(self, write: Write, text: str) -> None:
        assert load(write(text), {}) == Settings()

    @pytest.mark.parametrize("text", ["- a\n- b\n", "server", "3"])
    def test_must_be_a_mapping(self, write: Write, text: str) -> None:
        with pytest.raises(ConfigError, match="must be a mapping of sections"):
            load(write(text), {})

    def test_what_is_no_yaml_is_told_with_the_name_of_its_file(self, write: Write) -> None:
        path = write("server: {}\nserver: {}")
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert caught.value.message == f"{path}: line 2: this key is written twice"

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^cannot read .*absent.yaml: No such file or directory$"):
            load(tmp_path / "absent.yaml", {})

    def test_too_large(self, write: Write) -> None:
        path = write("")
        os.truncate(path, MAX_FILE + 1)
        with pytest.raises(ConfigError, match=r"dub5.yaml' is larger than 8 MiB$"):
            load(path, {})

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "dub5.yaml"
        path.write_bytes(b"server: \xff")
        with pytest.raises(ConfigError, match="not UTF-8 at byte 8"):
            load(path, {})

    def test_is_read(self, write: Write) -> None:
        settings = load(
            write("server: {port: 8123, max_body: 2MiB}\ncache: {classes: {quick: {ttl: 30s}}}"), {}
        )
        assert (settings.server.port, settings.server.max_body) == (8123, 2 * 2**20)
        assert settings.cache.named("quick").ttl == 30

    def test_the_example_is_valid(self) -> None:
        example = Path(__file__).parents[3] / "examples" / "dub5.yaml"
        settings = load(example, {})
        assert {type(each).__name__ for each in settings.providers.values()} == {
            "OpenAISettings",
            "AnthropicSettings",
            "SimulatedSettings",
        }


class TestTheEnvironment:
    def test_wins_over_the_file(self, write: Write) -> None:
        settings = load(write("server: {port: 8123}"), {"DUB5_SERVER__PORT": "8200"})
        assert settings.server.port == 8200

    @pytest.mark.parametrize("text", ["server:\n", ""])
    def test_fills_an_empty_section(self, write: Write, text: str) -> None:
        assert load(write(text), {"DUB5_SERVER__MAX_STREAM": "5m"}).server.max_stream == 300

    def test_finds_names_that_a_variable_cannot_spell(self, write: Write) -> None:
        text = "models: {gpt-4o.mini: {routes: [demo/x]}, Other: {routes: [demo/x]}}"
        settings = load(
            write(text),
            {"DUB5_MODELS__GPT_4O_MINI__PRICE__INPUT": "0.15", "DUB5_MODELS__OTHER__PRICE__INPUT": "2"},
        )
        assert {name: each.price.input for name, each in settings.models.items()} == {
            "gpt-4o.mini": 0.15,
            "Other": 2,
        }

    def test_changes_one_place_of_those_that_share_an_anchor(self, write: Write) -> None:
        text = "cache: {classes: {a: &a {ttl: 1m}, b: *a, c: {<<: *a, stale_if_error: 1h}}}"
        classes = load(write(text), {"DUB5_CACHE__CLASSES__A__TTL": "2m"}).cache.classes
        assert {name: float(each.ttl) for name, each in classes.items()} == {"a": 120, "b": 60, "c": 60}

    def test_makes_new_entries(self) -> None:
        settings = load(
            None,
            {
                "DUB5_PROVIDERS__LOCAL__KIND": "openai",
                "DUB5_PROVIDERS__LOCAL__BASE_URL": "http://localhost:11434/v1",
                "DUB5_MODELS__LLAMA__ROUTES": "[local/llama3]",
            },
        )
        assert list(settings.providers) == ["local"]
        assert settings.models["llama"].routes == ["local/llama3"]

    def test_changes_a_built_in_entry_and_keeps_the_rest(self) -> None:
        settings = load(
            None,
            {
                "DUB5_PROVIDERS__DEMO__TOKENS_PER_SECOND": "500",
                "DUB5_PERSONALITIES__CODER__TEMPERATURE": "0",
            },
        )
        assert settings.providers["demo"] == SimulatedSettings(tokens_per_second=500)
        assert list(settings.personalities) == ["assistant", "coder", "tutor"]
        assert settings.personalities["coder"].temperature == 0
        assert settings.personalities["coder"].system == Settings().personalities["coder"].system

    @pytest.mark.parametrize(
        ("value", "system"),
        [
            ("You are a pirate: talk like one. # always", "You are a pirate: talk like one. # always"),
            ("first line\n\nsecond line", "first line\n\nsecond line"),
            ('"42"', "42"),
            ("@ease, *really*", "@ease, *really*"),
            ("2026-13-45", "2026-13-45"),
            ("- a dash", "- a dash"),
        ],
    )
    def test_text_is_taken_as_it_stands(self, value: str, system: str) -> None:
        settings = load(None, {"DUB5_PERSONALITIES__P__SYSTEM": value})
        assert settings.personalities["p"].system == system

    @pytest.mark.parametrize(
        "name",
        ["DUB5_PORT", "DUB5_SERVICE_HOST", "DUB5_PORT_8000_TCP", "OTHER_SERVER__PORT", "dub5_server__port"],
    )
    def test_variables_that_are_not_ours_are_left_alone(self, name: str) -> None:
        assert load(None, {name: "tcp://10.0.0.1:8000"}) == Settings()

    @pytest.mark.parametrize(
        ("environment", "message"),
        [
            (
                {"DUB5_SERVER__PROT": "1"},
                "server.prot: unknown key; did you mean `port`? (set by DUB5_SERVER__PROT)",
            ),
            (
                {"DUB5_SERVR__PORT": "1"},
                "servr: unknown key; did you mean `server`? (set by DUB5_SERVR__PORT)",
            ),
            ({"DUB5_SERVER__PORT": "x"}, "server.port: Expected `int`, got `str` (set by DUB5_SERVER__PORT)"),
            (
                {"DUB5_MODELS__M__ROUTES": "[3]"},
                "models.m.routes[0]: Expected `str`, got `int` (set by DUB5_MODELS__M__ROUTES)",
            ),
            (
                {"DUB5_REDIS__TIMEOUT": "50ms"},
                "redis: Object missing required field `url` (set by DUB5_REDIS__TIMEOUT)",
            ),
            (
                {"DUB5_AUTH__KEYS": "sk-live-12345"},
                "auth.keys: secrets are never inline; write {env: NAME} or {file: PATH} (set by DUB5_AUTH__KEYS)",
            ),
            (
                {"DUB5_MODELS__M__ROUTES": "[3"},
                "DUB5_MODELS__M__ROUTES: line 1: not valid YAML: expected ',' or ']', but got '<stream end>'",
            ),
            (
                {"DUB5_SERVER__HOST": "0.0.0.0", "DUB5_SERVER__HOST__X": "1"},
                "DUB5_SERVER__HOST__X: server.host is not a section",
            ),
            ({"DUB5_CACHE__ENABLED": "yes, please"}, None),
        ],
    )
    def test_mistakes_name_the_variable(self, environment: dict[str, str], message: str | None) -> None:
        with pytest.raises(ConfigError) as caught:
            load(None, environment)
        assert caught.value.message == (
            message or "cache.enabled: Expected `bool`, got `str` (set by DUB5_CACHE__ENABLED)"
        )

    def test_mistakes_of_the_file_are_not_blamed_on_it(self, write: Write) -> None:
        with pytest.raises(ConfigError) as caught:
            load(
                write("server: {port: x}"), {"DUB5_CACHE__ENABLED": "false", "DUB5_SERVER__HOST": "127.0.0.1"}
            )
        assert caught.value.message == "server.port: Expected `int`, got `str`"


class TestWhateverIsWritten:
    @given(st.dictionaries(st.text() | st.integers() | st.none(), junk))
    def test_junk_is_refused_with_a_sentence(self, written: Json) -> None:
        _settings_or_refusal(written)

    @given(configurations())
    def test_a_configuration_with_mistakes_in_it_too(self, written: Json) -> None:
        _settings_or_refusal(written)

    @given(st.dictionaries(st.from_regex(r"DUB5_[A-Z_]{1,30}__[A-Z_]{0,20}", fullmatch=True), st.text()))
    def test_an_environment_of_junk_too(self, environment: dict[str, str]) -> None:
        with contextlib.suppress(ConfigError):
            assert isinstance(load(None, environment), Settings)


def _settings_or_refusal(written: Json) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(convert(written), Settings)
