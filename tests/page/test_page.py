"""The page in a browser: a chat from the first key to the last figure, against a real replica."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from typing import Any

import pytest

from testkit.http_server import CLOSE, HANG, Call, Wire, refuse, stream
from testkit.openai_server import DONE, FakeOpenAI, chunk, frame, frames, say
from tests.harness import openai_provider, running
from tests.page.conftest import Open, playwright

pytestmark = pytest.mark.asyncio(loop_scope="module")

expect = playwright.expect

PHONE = {
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}

SIMULATED: dict[str, Any] = {
    "providers": {"demo": {"kind": "simulated", "first_token": "20ms", "tokens_per_second": 400}},
    "models": {"small": {"routes": ["demo/simulated"], "price": {"input": 1.0, "output": 2.0}}},
}


async def ask(page: Any, text: str) -> None:
    await page.get_by_label("Your question").fill(text)
    await page.keyboard.press("Enter")


def last(page: Any) -> Any:
    return page.locator("article.answer").last


async def answered(page: Any) -> Any:
    """The last answer, once its figures are there."""
    await expect(last(page).locator(".facts")).to_be_visible()
    return last(page)


async def test_an_answer_streams_and_says_what_it_cost_and_what_the_cache_did(opened: Open) -> None:
    async with running(SIMULATED) as server, opened(server.url) as page:
        assert await page.locator("#model option").all_text_contents() == [
            "assistant",
            "coder",
            "tutor",
            "small",
        ]
        await page.get_by_label("Talk to").select_option("coder")
        await ask(page, "Why is the sky blue?")
        first = await answered(page)
        await expect(first.locator(".cache")).to_contain_text("Nothing was kept for this question")
        await expect(first.locator(".first")).to_contain_text("first token after")
        await expect(first.locator(".tokens")).to_contain_text("tokens")
        await expect(first.locator(".cost")).to_contain_text("cost $0.0")
        text = await first.locator(".text").text_content()
        assert len(text) > 40

        await first.get_by_role("button", name="Ask again").click()
        await expect(page.locator("article.answer")).to_have_count(2)
        second = await answered(page)
        shown = re.compile(r"From the cache, \d+ seconds? old: from the memory")
        await expect(second.locator(".cache")).to_contain_text(shown)
        await expect(second.locator(".cost")).to_contain_text("saved $0.0")
        assert await second.locator(".text").text_content() == text
        await expect(page.locator('[data-plot="hits"] b')).to_have_text("50 %")
        await expect(page.locator('[data-plot="latency"] b')).to_contain_text("ms")
        await expect(page.locator('[data-plot="inflight"] b')).to_have_text("0")
        assert (await page.locator('[data-plot="inflight"] path.drawn').get_attribute("d")).startswith("M")


@pytest.mark.parametrize("by", ["Enter", "suggestion"])
async def test_a_question_that_is_sent_before_the_models_are_known_is_asked(opened: Open, by: str) -> None:
    async with running(SIMULATED) as server, opened(server.url) as page:
        known = asyncio.Event()

        async def hold(route: Any) -> None:
            await known.wait()
            await route.continue_()

        await page.route("**/v1/models", hold)
        async with page.expect_request("**/v1/models"):
            await page.reload()
        if by == "Enter":
            await ask(page, "Why is the sky blue?")
        else:
            await page.get_by_role("button", name="Why is the sky blue?").click()
        assert await page.locator("article").count() == 0
        known.set()
        await answered(page)
        await expect(page.locator("article.question")).to_have_text(["Why is the sky blue?"])
        assert await page.get_by_label("Your question").input_value() == ""


async def test_a_question_to_a_service_that_names_no_model_stays_where_it_was_written(opened: Open) -> None:
    refused = "Failed to load resource"
    async with running(SIMULATED) as server, opened(server.url, expected=(refused,)) as page:
        await page.route("**/v1/models", lambda route: route.fulfill(status=503, json={}))
        await page.reload()
        await ask(page, "Why is the sky blue?")
        await expect(page.locator("#about")).not_to_contain_text("Ask it twice")
        assert await page.get_by_label("Your question").input_value() == "Why is the sky blue?"


async def test_text_is_seen_before_the_answer_is_complete_and_can_be_stopped(
    fake: FakeOpenAI, opened: Open
) -> None:
    fake.reply = stream([*frames("Once ", "upon")[:3], HANG])
    async with running(openai_provider(fake.base_url)) as server, opened(server.url) as page:
        await ask(page, "A story")
        await expect(last(page).locator(".text")).to_contain_text("Once upon")
        assert await last(page).get_attribute("aria-busy") == "true"
        await expect(page.locator('[data-plot="inflight"] b')).to_have_text("1")
        # This one is about a word that is being composed, as of Japanese.
        await page.get_by_label("Your question").dispatch_event(
            "keydown", {"key": "Escape", "isComposing": True}
        )
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(last(page).locator(".problem")).to_have_text("Stopped.")
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        await server.becomes("dub5_http_requests_total", 1, outcome="client_disconnect")

        fake.reply = say("The end.")
        await ask(page, "Go on")
        await answered(page)
        roles = [message["role"] for message in fake.calls[-1].body["messages"]]
        assert roles[-3:] == ["user", "assistant", "user"]


async def test_what_is_asked_twice_word_for_word_comes_from_the_cache(fake: FakeOpenAI, opened: Open) -> None:
    async with running(openai_provider(fake.base_url)) as server, opened(server.url) as page:
        for count, (text, reported) in enumerate(
            [
                ("Why?", "Nothing was kept"),
                ("Why?", "From the cache"),
                ("How?", "Nothing was kept"),  # a turn of the same conversation
                ("How?", "From the cache"),
                ("Why?", "Nothing was kept"),  # and so is this: by now it means something else
            ],
            start=1,
        ):
            await ask(page, text)
            await expect(page.locator("article.answer")).to_have_count(count)
            await expect((await answered(page)).locator(".cache")).to_contain_text(reported)
        asked = [[each["content"] for each in call.body["messages"][1::2]] for call in fake.calls]
        assert asked == [["Why?"], ["Why?", "How?"], ["Why?", "How?", "Why?"]]


async def test_a_new_answer_can_be_asked_for(opened: Open) -> None:
    async with running(SIMULATED) as server, opened(server.url) as page:
        await ask(page, "hi")
        await answered(page)
        await page.get_by_label("new answer").check()
        await page.get_by_role("button", name="Ask again").click()
        await expect(page.locator("article.answer")).to_have_count(2)
        await expect((await answered(page)).locator(".cache")).to_contain_text("A new answer was asked for")


async def test_new_chat_forgets_the_conversation_also_in_mid_answer(fake: FakeOpenAI, opened: Open) -> None:
    fake.reply = stream([*frames("Once ", "upon")[:3], HANG])
    async with running(openai_provider(fake.base_url)) as server, opened(server.url) as page:
        await ask(page, "A story")
        await expect(last(page).locator(".text")).to_contain_text("Once")
        await page.get_by_role("button", name="New chat").click()
        await expect(page.locator("article")).to_have_count(0)
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        fake.reply = say("Hello")
        await ask(page, "hi")
        await answered(page)
        assert [each["content"] for each in fake.calls[-1].body["messages"] if each["role"] != "system"] == [
            "hi"
        ]


async def test_a_key_is_asked_for_and_kept_nowhere(fake: FakeOpenAI, opened: Open) -> None:
    keys = {"KEYS": json.dumps({hashlib.sha256(b"open-sesame").hexdigest(): {"tenant": "acme"}})}
    config = {**openai_provider(fake.base_url), "auth": {"keys": {"env": "KEYS"}}}
    async with running(config, keys) as server, opened(server.url, expected=("401",)) as page:
        await expect(page.locator("#about")).to_contain_text("wants a key")
        await expect(page.get_by_label("Key")).to_be_focused()
        await page.keyboard.type("open")
        await page.keyboard.press("Enter")
        await expect(page.locator("#about")).to_contain_text("not known")
        await page.get_by_label("Key").fill("open-sesame")
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Talk to")).to_be_enabled()
        await ask(page, "hi")
        await answered(page)
        kept = await page.evaluate(
            """async () => [localStorage.length, sessionStorage.length, document.cookie,
                            (await indexedDB.databases()).length, (await caches.keys()).length, location.href]"""
        )
        assert kept == [0, 0, "", 0, 0, f"{server.url}/"]
        await page.reload()
        await expect(page.get_by_label("Key")).to_have_value("")
        await expect(page.locator("#about")).to_contain_text("wants a key")


async def test_a_wrong_key_in_mid_conversation_is_told_and_the_next_question_tries_again(
    fake: FakeOpenAI, opened: Open
) -> None:
    keys = {"KEYS": json.dumps({hashlib.sha256(b"open-sesame").hexdigest(): {"tenant": "acme"}})}
    config = {**openai_provider(fake.base_url), "auth": {"keys": {"env": "KEYS"}}}
    async with running(config, keys) as server, opened(server.url, expected=("401",)) as page:
        await page.get_by_label("Key").fill("open-sesame")
        await page.keyboard.press("Enter")
        await page.get_by_label("Talk to").select_option("coder")
        await ask(page, "First?")
        await answered(page)
        notice = page.locator("#log > .problem")
        for count, key in enumerate(["closed", "open\N{EN DASH}sesame"], start=1):
            await page.get_by_label("Key").fill(key)
            await page.keyboard.press("Enter")
            await expect(notice).to_have_count(count)
            await expect(notice.last).to_be_in_viewport()
        await expect(notice.last).not_to_have_text(await notice.first.text_content())
        await page.get_by_label("Key").fill("open-sesame")
        await ask(page, "Second?")
        await expect(page.locator(".facts")).to_have_count(2)
        await expect(page.get_by_label("Talk to")).to_have_value("coder")
        await page.get_by_role("button", name="New chat").click()
        await expect(notice).to_have_count(0)


async def test_a_service_that_was_away_is_asked_again_with_the_next_question(opened: Open) -> None:
    async with (
        running(SIMULATED) as server,
        opened(server.url, expected=("Failed to load resource",)) as page,
    ):
        await page.route("**/v1/models", lambda route: route.fulfill(status=503, json={}))
        await page.reload()
        await expect(page.locator("#about")).to_contain_text("503")
        await page.unroute("**/v1/models")
        await ask(page, "Why is the sky blue?")
        await answered(page)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (stream([*frames("Once ", "upon")[:3], CLOSE]), "broke off"),
        (refuse(400, "That is too rude."), "That is too rude."),
        (refuse(500, "boom"), "provider"),
    ],
    ids=["broken", "refused", "failed"],
)
async def test_trouble_is_told_and_the_next_question_works(
    fake: FakeOpenAI, opened: Open, reply: Any, said: str
) -> None:
    fake.reply = reply
    async with (
        running(openai_provider(fake.base_url)) as server,
        opened(server.url, expected=("status of",)) as page,
    ):
        await ask(page, "hi")
        await expect(last(page).locator(".problem")).to_contain_text(said)
        fake.reply = say("Better now.")
        await ask(page, "again")
        await expect((await answered(page)).locator(".text")).to_have_text("Better now.")


async def test_when_to_come_again_is_said_once(fake: FakeOpenAI, opened: Open) -> None:
    config = {**openai_provider(fake.base_url), "limits": {"default": {"requests_per_minute": 2}}}
    async with running(config) as server, opened(server.url, expected=("status of",)) as page:
        fake.reply = refuse(429, "Too many.", headers={"retry-after": "9"})
        await ask(page, "hi")
        await expect(last(page).locator(".problem")).to_contain_text(" 9 s")
        await ask(page, "hi")
        await ask(page, "hi")
        await expect(page.locator(".problem")).to_have_count(3)
        seconds = re.findall(r"\d+ s\b", await last(page).locator(".problem").text_content())
        assert len(seconds) == 1


async def test_the_end_of_a_stream_says_when_to_come_again(fake: FakeOpenAI, opened: Open) -> None:
    began = asyncio.Event()

    async def late(call: Call, wire: Wire) -> None:
        await began.wait()
        await refuse(429, "Too many.", headers={"retry-after": "9"})(call, wire)

    fake.reply = late
    config = {**openai_provider(fake.base_url), "server": {"heartbeat": "10ms"}}
    async with running(config) as server, opened(server.url) as page:
        async with page.expect_response("**/v1/chat/completions"):
            await ask(page, "hi")
        began.set()
        await expect(last(page).locator(".problem")).to_contain_text(" 9 s")


async def test_what_fails_takes_nothing_from_the_conversation_and_can_be_asked_again(
    fake: FakeOpenAI, opened: Open
) -> None:
    async with (
        running(openai_provider(fake.base_url)) as server,
        opened(server.url, expected=("status of",)) as page,
    ):
        fake.reply = say("One.")
        await ask(page, "First?")
        await answered(page)
        again = page.get_by_role("button", name="Ask again")
        await page.get_by_label("new answer").check()
        fake.reply = refuse(500, "boom")
        await again.click()
        await expect(page.locator(".problem")).to_have_count(1)
        await ask(page, "First?")
        await expect(page.locator(".problem")).to_have_count(2)
        await ask(page, "Second?")
        await expect(page.locator(".problem")).to_have_count(3)
        fake.reply = say("Two.")
        await again.click()
        await answered(page)
        asked = [each["content"] for each in fake.calls[-1].body["messages"] if each["role"] != "system"]
        assert asked == ["First?", "One.", "Second?"]


async def test_a_refusal_is_part_of_the_conversation_and_an_empty_answer_is_not(
    fake: FakeOpenAI, opened: Open
) -> None:
    async with running(openai_provider(fake.base_url)) as server, opened(server.url) as page:
        for count, (text, delta) in enumerate(
            [("First?", {"refusal": "No."}), ("Second?", {"content": ""}), ("Third?", {"content": "Yes."})],
            start=1,
        ):
            fake.reply = stream([frame(chunk(delta)), frame(chunk({}, "stop")), DONE])
            await ask(page, text)
            await expect(page.locator(".facts")).to_have_count(count)
        asked = [each["content"] for each in fake.calls[-1].body["messages"] if each["role"] != "system"]
        assert asked == ["First?", "No.", "Third?"]


async def test_what_models_write_is_text_and_never_markup(fake: FakeOpenAI, opened: Open) -> None:
    fake.reply = say(
        '<img src=x onerror="document.title=1"><b>bold</b>\n```html\n', "<script>x</script>\n```\nend"
    )
    async with running(openai_provider(fake.base_url)) as server, opened(server.url) as page:
        await ask(page, "<i>hi</i>")
        text = (await answered(page)).locator(".text")
        await expect(text).to_contain_text('<img src=x onerror="document.title=1"><b>bold</b>')
        assert await text.locator("pre code").text_content() == "<script>x</script>"
        assert await page.locator("article :is(img, b, i, script)").count() == 0
        assert await page.title() == "DUB5"


async def test_the_policy_stops_foreign_and_inline_script(opened: Open) -> None:
    async with running(SIMULATED) as server, opened(server.url, expected=("",)) as page:
        done = await page.evaluate(
            """async () => {
                const refused = [];
                document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
                const inline = document.createElement("script");
                try { inline.text = "document.title = 'taken'"; document.head.append(inline); } catch {}
                document.body.setAttribute("style", "display: none");
                await fetch("https://example.invalid/").catch(() => {});
                try { document.body.innerHTML = "<p>markup</p>"; } catch (error) { refused.push(error.name); }
                await new Promise((done) => setTimeout(done));
                return [document.title, getComputedStyle(document.body).display, refused];
            }"""
        )
        assert done[:2] == ["DUB5", "grid"]
        assert {"connect-src", "style-src-attr", "TypeError"} <= set(done[2])


async def test_everything_can_be_done_by_keyboard(opened: Open) -> None:
    async with running(SIMULATED) as server, opened(server.url) as page:
        await expect(page.get_by_label("Talk to")).to_be_enabled()
        await expect(page.get_by_label("Your question")).to_be_focused()
        await page.keyboard.type("one")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("two")
        await page.keyboard.press("Enter")
        assert await page.locator("article.question").text_content() == "one\ntwo"
        await answered(page)
        reached: list[str] = []
        while reached[-1:] != ["send"]:  # from the question to the end of the page, and round again
            await page.keyboard.press("Tab")
            reached.append(
                await page.evaluate("document.activeElement.id || document.activeElement.className")
            )
            if reached == ["fresh", "send"]:
                reached = []
        order = ["skip", "model", "key", "new", "log", "again", "question", "fresh", "send"]
        assert [each for each in reached if each in order] == order
        await page.locator(".again").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("article.answer")).to_have_count(2)
        await expect(page.get_by_label("Your question")).to_be_focused()
        await expect(page.get_by_role("status")).to_contain_text("Answer complete.")


async def test_a_long_answer_is_scrolled_by_keyboard_alone(fake: FakeOpenAI, opened: Open) -> None:
    fake.reply = say("A paragraph of an answer.\n\n" * 200)
    async with running(openai_provider(fake.base_url)) as server, opened(server.url) as page:
        log = page.get_by_role("main", name="Conversation")
        await ask(page, "At length, please.")
        await answered(page)
        for _ in range(5):  # back from the question
            if await log.evaluate("log => log === document.activeElement"):
                break
            await page.keyboard.press("Shift+Tab")
        await expect(log).to_be_focused()
        ring = await log.evaluate(
            "log => [getComputedStyle(log).outlineStyle, getComputedStyle(log).outlineWidth]"
        )
        assert ring == ["solid", "3px"]
        begin, end = page.locator("article.question"), last(page).locator(".facts")
        await expect(begin).not_to_be_in_viewport()
        await page.keyboard.press("Home")
        await expect(begin).to_be_in_viewport()
        await expect(end).not_to_be_in_viewport()
        await page.keyboard.press("PageDown")
        await expect(begin).not_to_be_in_viewport()
        await page.keyboard.press("End")
        await expect(end).to_be_in_viewport()


async def test_it_fits_a_phone(opened: Open) -> None:
    async with running(SIMULATED) as server, opened(server.url, **PHONE) as page:
        await page.get_by_role("button", name="Why is the sky blue?").tap()
        await answered(page)
        measured = await page.evaluate(
            """() => ({
                wide: document.documentElement.scrollWidth, high: document.documentElement.scrollHeight,
                small: [...document.querySelectorAll("button, select, input, textarea, summary")]
                    .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 24)
                    .map((each) => each.id || each.className)
                    .filter((name) => name !== "fresh"),  // its label is the target
            })"""
        )
        assert measured == {"wide": 360, "high": 740, "small": []}
        await expect(page.get_by_role("button", name="Send")).to_be_in_viewport()


async def test_a_description_with_a_long_word_fits_a_phone(opened: Open) -> None:
    config = {
        **SIMULATED,
        "personalities": {"long": {"model": "small", "system": "Hi.", "description": "o" * 200}},
    }
    async with running(config) as server, opened(server.url, **PHONE) as page:
        await expect(page.locator("#about")).to_contain_text("ooo")
        log = page.locator("#log")
        assert await log.evaluate("log => log.scrollWidth - log.clientWidth") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_in_the_light_and_in_the_dark(opened: Open, scheme: str) -> None:
    async with running(SIMULATED) as server, opened(server.url, color_scheme=scheme) as page:
        await ask(page, "hi")
        await answered(page)
        await page.get_by_role("button", name="Ask again").click()
        await expect(page.locator("article.answer")).to_have_count(2)
        await answered(page)
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(246, 247, 246)", "dark": "rgb(17, 22, 21)"}[scheme]
        assert await page.evaluate(_POOR_CONTRAST) == []


_POOR_CONTRAST = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = numbers(colour).slice(0, 3).map((each) => {
            const part = each / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (numbers(colour)[3] !== 0) return colour;
        }
    };
    const poor = [];
    for (const element of document.querySelectorAll("body *")) {
        const written = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!written || !element.checkVisibility()) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push([element.tagName, element.className, ratio]);
    }
    return poor;
}"""


STATUSES = [
    (
        ("dub5; hit; ttl=37; detail=shared", "263"),
        "From the cache, 4 minutes old: from Redis, which all replicas share, good for another 37 seconds.",
    ),
    (
        ("dub5; hit; ttl=37; ttl-by=requests; detail=local", "3"),
        (
            "From the cache, 3 seconds old: from the memory of the replica that answered, good for another 37 seconds, "
            "as it is asked for often."
        ),
    ),
    (
        ("dub5; hit; ttl=37; ttl-by=something-new; detail=local", "3"),
        "From the cache, 3 seconds old: from the memory of the replica that answered, good for another 37 seconds.",
    ),
    (
        ("dub5; hit; ttl=-12; detail=stale-while-revalidate", "312"),
        "From the cache, 5 minutes old: a little old, while a new answer is being fetched behind it.",
    ),
    (
        ("dub5; hit; ttl=-312; detail=stale-if-error", "1"),
        "From the cache, 1 second old: old, because every provider failed.",
    ),
    (
        ("dub5; fwd=uri-miss; collapsed", None),
        "Somebody was asking the same at this moment: one call, both got its answer.",
    ),
    (
        ("dub5; fwd=stale; stored", None),
        "The answer that was kept is too old: the provider was asked, and the answer kept for the next time.",
    ),
    (
        ("dub5; fwd=bypass; detail=temperature", None),
        "Not from the cache: the temperature is so high that each answer should differ.",
    ),
    (("dub5; fwd=bypass; detail=something-new", None), "Not from the cache: something-new."),
    ((None, None), "The cache said nothing."),
]

AMOUNTS = [(0, "$0"), (1234.5, "$1234.50"), (0.00213, "$0.00213"), (1.5e-7, "$0.000000150")]


async def test_headers_and_sums_in_plain_words(opened: Open) -> None:
    async with running(SIMULATED) as server, opened(server.url) as page:
        said = await page.evaluate(
            """async ([statuses, amounts]) => {
                const { explain, money } = await import("/page/words.js");
                return [statuses.map((each) => explain(...each).words), amounts.map((each) => money(each))];
            }""",
            [[list(each) for each, _ in STATUSES], [each for each, _ in AMOUNTS]],
        )
    assert said == [[words for _, words in STATUSES], [words for _, words in AMOUNTS]]
