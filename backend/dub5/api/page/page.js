// The page: what is on it, and what its parts do when they are used. Text goes in as text, never as markup.

import { ask, read } from "/page/chat.js";
import { Plot } from "/page/plots.js";
import { dollars, explain, money, time } from "/page/words.js";

const $ = (id) => document.getElementById(id);
const log = $("log"), question = $("question"), model = $("model"), key = $("key");
const LATEST = 20;  // answers over which the page's own hit ratio is taken

const plot = (name, options) => new Plot(document.querySelector(`[data-plot="${name}"]`), options);
const plots = {
  hits: plot("hits", { show: (ratio) => `${Math.round(ratio * 100)} %`, top: 1 }),
  latency: plot("latency", { show: time, top: 1 }),
  inflight: plot("inflight", { show: (count) => String(count), top: 1 }),
};

let catalog = new Map();   // name -> {description, price}
let loading = null;        // Promise: the catalog is there, or the page says why it is not
let messages = [];         // the conversation, as the API wants it; never changed in place
let asking = null;         // AbortController of the question under way
let outcomes = [];         // of this page's latest answers: was the provider spared?

function element(name, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  if (text != null) made.textContent = text;
  made.append(...children);
  return made;
}

function say(text) {
  $("status").textContent = text;
}

// -- whom to talk to

async function loadCatalog() {
  try {
    const [models, personalities] = await Promise.all([read("/v1/models", key.value), read("/v1/personalities", key.value)]);
    const described = new Map(personalities.data.map((each) => [each.name, each]));
    const chats = models.data.filter((each) => each.kind !== "embedding");
    catalog = new Map(chats.map((each) => [each.id, { price: each.price, description: described.get(each.id)?.description }]));
    offer(described);
    $("about").textContent = introduction();
  } catch (problem) {
    model.disabled = true;
    const trouble = problem.status === 401 && !key.value ? "This service wants a key. Put yours in above." : problem.message;
    if ($("welcome").hidden) notice(trouble);
    else $("about").textContent = trouble;
    say(trouble);
    if (problem.status === 401) key.focus();
  }
}

/** The names are there, or the page says why not: who types faster than they come is not ignored. */
async function settled() {
  await loading;
  if (model.disabled) await (loading = loadCatalog());
}

/** What is no answer, in the middle of a conversation. */
function notice(text) {
  log.append(element("article", { className: "problem", text }));
  toEnd(true);
}

function offer(personalities) {
  const chosen = model.value;
  const groups = [["Personalities", (name) => personalities.has(name)], ["Models", (name) => !personalities.has(name)]];
  model.replaceChildren(...groups.map(([label, belongs]) => {
    const names = [...catalog.keys()].filter(belongs);
    return element("optgroup", { label }, ...names.map((name) => element("option", { text: name, value: name })));
  }));
  if (catalog.has(chosen)) model.value = chosen;
  model.disabled = false;
}

function introduction() {
  const about = catalog.get(model.value)?.description;
  return [about, "Ask something. Ask it twice, word for word, and the second answer comes from the cache."].filter(Boolean).join(" ");
}

// -- a question and its answer

function canSend(text) {
  return text.trim() && !asking && !model.disabled;
}

async function send(text) {
  $("welcome").hidden = true;
  // Word for word what was asked just now: the same question again, as the page promises, and no further turn.
  const before = messages.at(-2);
  const earlier = before?.role === "user" && before.content === text ? messages.slice(0, -2) : messages;
  log.append(element("article", { className: "question", text }));
  await answer(model.value, [...earlier, { role: "user", content: text }]);
}

/** Asks with the messages `asked`. They and what comes are the conversation then; where nothing comes it stays as it was. */
async function answer(name, asked) {
  const view = new AnswerView(name);
  const conversation = messages;  // "New chat" puts another one in its place
  const started = performance.now();
  let first = null, text = "", cache = explain(null), headers = new Headers();
  begin();
  try {
    const end = await ask({
      body: { model: name, messages: asked },
      key: key.value,
      fresh: $("fresh").checked,
      signal: asking.signal,
      onHead(found) {
        headers = found;
        cache = explain(headers.get("cache-status"), headers.get("age"));
      },
      onDelta(delta) {
        const piece = view.add(delta);
        if (piece && first === null) first = performance.now() - started;
        text += (delta.content ?? "") + (delta.refusal ?? "");
      },
    });
    view.finish({ first, whole: performance.now() - started, usage: end.usage, finish: end.finish, cache, headers, price: catalog.get(name)?.price });
    noteAnswer(cache, first);
    say(`Answer complete. ${cache.words}`);
  } catch (problem) {
    const stopped = problem.name === "AbortError";
    view.fail(stopped ? "Stopped." : told(problem));
    say(stopped ? "Stopped." : `No answer: ${told(problem)}`);
    if (problem.status === 401) key.focus();
  } finally {
    finish();
    if (conversation === messages) {
      if (text) messages = [...asked, { role: "assistant", content: text }];
      view.offerAgain(asked, name);
    }
  }
}

/** What went wrong and, where that is known and not said there, when to come again. */
function told(problem) {
  const again = `Try again in ${problem.retryAfter} s.`;
  return problem.retryAfter == null || problem.message.includes(again) ? problem.message : `${problem.message} ${again}`;
}

function begin() {
  asking = new AbortController();
  log.querySelectorAll(".again").forEach((button) => button.remove());
  $("send").hidden = true;
  $("stop").hidden = false;
  plots.inflight.add(1);
}

function finish() {
  asking = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  plots.inflight.add(0);
}

class AnswerView {
  constructor(name) {
    this.article = element("article", { className: "answer", ariaBusy: "true" }, element("p", { className: "who", text: name }));
    this.parts = {};
    this.pending = {};
    log.append(this.article);
    this.#part("text");
    toEnd(true);
  }

  /** Shows a delta; says whether there was anything to show. */
  add(delta) {
    const reasoning = delta.reasoning_content ?? delta.reasoning;
    const tools = (delta.tool_calls ?? []).map(({ function: called }) => (called?.name ? `\n${called.name} ` : "") + (called?.arguments ?? "")).join("");
    if (reasoning) this.#show("thinking", reasoning);
    if (delta.content || delta.refusal || tools) this.#show("text", (delta.content ?? "") + (delta.refusal ?? "") + tools);
    return Boolean(reasoning || delta.content || delta.refusal || tools);
  }

  finish({ first, whole, usage, finish, cache, headers, price }) {
    const follow = atEnd();
    this.#settle();
    const rate = usage && whole > first && !cache.free ? ` (${Math.round((usage.completion_tokens / (whole - first)) * 1000)} a second)` : "";
    const cost = dollars(usage, price);
    const figures = [
      ["first", first === null ? "no text" : `first token after ${time(first)}`],
      ["tokens", usage ? `${usage.completion_tokens} tokens${rate}` : "tokens not counted"],
      ["cost", cost === null ? "no price set" : cache.free ? `saved ${money(cost)}` : `cost ${money(cost)}`],
    ];
    if (finish && finish !== "stop") figures.push(["finish", `ended by: ${finish}`]);
    const facts = [
      ["all of it", time(whole)], ["prompt", usage ? `${usage.prompt_tokens} tokens` : null],
      ["Cache-Status", headers.get("cache-status")], ["Age", headers.get("age")],
      ["Server-Timing", headers.get("server-timing")], ["X-Request-Id", headers.get("x-request-id")],
    ].filter(([, value]) => value != null);
    this.article.append(element("div", { className: "facts" },
      element("p", { className: `cache ${cache.kind}`, text: cache.words }),
      element("ul", { className: "figures" }, ...figures.map(([kind, text]) => element("li", { className: kind, text }))),
      element("details", {}, element("summary", { text: "Details" }),
        element("dl", {}, ...facts.flatMap(([term, text]) => [element("dt", { text: term }), element("dd", { text })])))));
    toEnd(follow);
  }

  fail(message) {
    const follow = atEnd();
    this.#settle();
    this.article.append(element("p", { className: "problem", text: message }));
    toEnd(follow);
  }

  /** For the latest answer only: the next question takes the button away. */
  offerAgain(asked, name) {
    const follow = atEnd();
    const button = element("button", { type: "button", className: "again", text: "Ask again" });
    button.addEventListener("click", () => {
      question.focus();
      answer(name, asked);
    });
    this.article.append(button);
    toEnd(follow);
  }

  #part(kind) {
    this.parts[kind] ??= this.article.appendChild(element("div", { className: kind === "text" ? "text" : `text ${kind}` }));
    if (kind === "thinking" && this.parts.text) this.article.insertBefore(this.parts.thinking, this.parts.text);
    return this.parts[kind];
  }

  /** At most one change a frame, however many tokens come. */
  #show(kind, text) {
    this.pending[kind] = (this.pending[kind] ?? "") + text;
    this.frame ??= requestAnimationFrame(() => this.#flush());
  }

  #flush() {
    this.frame = null;
    const follow = atEnd();
    for (const [kind, text] of Object.entries(this.pending)) this.#part(kind).append(text);
    this.pending = {};
    if (follow) toEnd(true);
  }

  #settle() {
    cancelAnimationFrame(this.frame);
    this.#flush();
    this.article.ariaBusy = "false";
    const text = this.parts.text;
    text.replaceChildren(...withCode(text.textContent));
  }
}

/** Fenced blocks become code; all else stays as it was written. */
function withCode(text) {
  return text.split(/^```[^\n`]*\n([\s\S]*?)^```[ \t]*\n?/m).flatMap((part, at) => {
    if (at % 2) return [element("pre", { tabIndex: 0 }, element("code", { text: part.trimEnd() }))];
    return part ? [part] : [];
  });
}

function atEnd() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 80;
}

function toEnd(follow) {
  if (follow) log.scrollTop = log.scrollHeight;
}

// -- the plots, of what this page itself sees

function noteAnswer(cache, first) {
  outcomes = [...outcomes, cache.free].slice(-LATEST);
  plots.hits.add(outcomes.filter(Boolean).length / outcomes.length);
  plots.latency.add(first);
}

// -- hands and keys

$("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  await settled();
  const text = question.value;
  if (!canSend(text)) return;
  question.value = "";
  send(text);
});

question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) asking?.abort();
});

$("stop").addEventListener("click", () => {
  asking?.abort();
  question.focus();
});

$("new").addEventListener("click", () => {
  asking?.abort();
  messages = [];
  log.querySelectorAll("article").forEach((article) => article.remove());
  $("welcome").hidden = false;
  question.focus();
});

document.querySelectorAll(".suggestion").forEach((button) => button.addEventListener("click", async () => {
  question.focus();
  await settled();
  if (canSend(button.textContent)) send(button.textContent);
}));

model.addEventListener("change", () => { $("about").textContent = introduction(); });
key.addEventListener("change", () => { loading = loadCatalog(); });
addEventListener("pagehide", () => { key.value = ""; });  // a browser may keep a whole page to go back to

question.focus();
loading = loadCatalog();
