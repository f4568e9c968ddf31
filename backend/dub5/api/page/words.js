// What headers and numbers mean, in plain words. Nothing here touches the page, so it can be tested alone.

const DETAILS = {
  local: "from the memory of the replica that answered",
  shared: "from Redis, which all replicas share",
  "stale-while-revalidate": "a little old, while a new answer is being fetched behind it",
  "stale-if-error": "old, because every provider failed",
  "max-stale": "old, which this request accepted",
};

const REASONS = {
  requests: "as it is asked for often",
  changes: "by how seldom its answer has changed",
  "per-question": "so that this question is not out of date too often",
  prior: "as answers of its kind change",
  event: "as many answers have changed of late",
  bounds: "which is a limit that was set",
};

const BYPASSES = {
  "no-store": "this request asked that nothing be kept",
  class: "answers of this kind are never kept",
  temperature: "the temperature is so high that each answer should differ",
  n: "several answers were asked for",
  "tool-results": "the conversation holds results of tools",
  disabled: "the cache is switched off",
};

const FORWARDS = {
  "uri-miss": "Nothing was kept for this question",
  stale: "The answer that was kept is too old",
  request: "A new answer was asked for",
};

/** `Cache-Status` (RFC 9211) as an object: {hit: true, ttl: "37", detail: "local"}. */
export function parseStatus(header) {
  const [, ...parts] = (header ?? "").split(";").map((part) => part.trim());
  return Object.fromEntries(parts.map((part) => {
    const [name, ...value] = part.split("=");
    return [name, value.length ? value.join("=") : true];
  }));
}

/** What the cache did: {kind: "hit" | "miss", free, words}. `free`: no provider was paid for this answer. */
export function explain(header, age) {
  if (!header) return { kind: "miss", free: false, words: "The cache said nothing." };
  const status = parseStatus(header);
  if (status.hit) return { kind: "hit", free: true, words: hit(status, age) };
  if (status.fwd === "bypass") {
    const why = BYPASSES[status.detail] ?? status.detail ?? "no reason was given";
    return { kind: "miss", free: false, words: `Not from the cache: ${why}.` };
  }
  if (status.collapsed) {
    return { kind: "hit", free: true, words: "Somebody was asking the same at this moment: one call, both got its answer." };
  }
  const why = FORWARDS[status.fwd] ?? "Not from the cache";
  const then = status.stored ? "the provider was asked, and the answer kept for the next time" : "the provider was asked";
  return { kind: "miss", free: false, words: `${why}: ${then}.` };
}

function hit(status, age) {
  const from = DETAILS[status.detail] ?? "from the cache";
  const old = age == null ? "" : `, ${duration(Number(age))} old`;
  const ttl = Number(status.ttl);
  const why = REASONS[status["ttl-by"]];
  const left = status.ttl != null && ttl >= 0 ? `, good for another ${duration(ttl)}${why ? `, ${why}` : ""}` : "";
  return `From the cache${old}: ${from}${left}.`;
}

/** Seconds, as people say them. */
export function duration(seconds) {
  const units = [[86400, "day"], [3600, "hour"], [60, "minute"]];
  for (const [size, name] of units) {
    if (seconds >= size * 2) return `${Math.floor(seconds / size)} ${name}s`;
  }
  return seconds === 1 ? "1 second" : `${Math.floor(seconds)} seconds`;
}

/** Milliseconds: `3 ms`, `1.25 s`. */
export function time(milliseconds) {
  if (milliseconds < 10) return `${milliseconds.toFixed(1)} ms`;
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

/** Dollars for an answer, or null where there is no price or no usage. Prices are $ per million tokens. */
export function dollars(usage, price) {
  if (!usage || !price) return null;
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const prompt = (usage.prompt_tokens - cached) * price.input + cached * price.cached_input;
  return (prompt + usage.completion_tokens * price.output) / 1e6;
}

/** `$0.0021`, `$0.0000123`: three digits that count, never `1e-7`. */
export function money(amount) {
  if (amount === 0) return "$0";
  const places = amount >= 1 ? 2 : Math.min(12, 2 - Math.floor(Math.log10(amount)));
  return `$${amount.toFixed(places)}`;
}
