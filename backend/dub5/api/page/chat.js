// One question to the API and its answer as it comes. Knows HTTP and nothing of the page.

/** A refusal, or an answer that broke off. `status` is 0 where there was no answer at all. */
export class Problem extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Problem where no header can carry the key, as where a word processor has changed its dashes or quotation marks. */
function authorized(key) {
  if (/[^ -~]/.test(key)) throw new Problem("The key has a character that cannot be sent, such as a long dash or a curly quotation mark.", 401);
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** JSON from our own origin; Problem otherwise. */
export async function read(path, key) {
  const headers = authorized(key);
  let response;
  try {
    response = await fetch(path, { headers, credentials: "omit" });
  } catch {
    throw new Problem("The service cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response.json();
}

async function refusal(response) {
  let message = `The service answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* something in between answered, not the service */ }
  return new Problem(message, response.status, response.headers.get("retry-after"));
}

/**
 * Ask, and report what comes.
 *
 * `onHead(headers)` once, `onDelta(delta)` for each piece of the answer. Returns {usage, finish}. Throws Problem, or
 * AbortError where `signal` was used.
 */
export async function ask({ body, key, fresh, signal, onHead, onDelta }) {
  const headers = { "content-type": "application/json", ...authorized(key) };
  if (fresh) headers["cache-control"] = "no-cache";
  let response;
  try {
    response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers,
      credentials: "omit",
      signal,
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Problem("The service cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  onHead(response.headers);
  return follow(response, onDelta);
}

async function follow(response, onDelta) {
  const end = { usage: null, finish: null };
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return end;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem(chunk.error.message, response.status, chunk.error.retry_after);
      end.usage = chunk.usage ?? end.usage;
      for (const choice of chunk.choices ?? []) {
        end.finish = choice.finish_reason ?? end.finish;
        if (choice.delta) onDelta(choice.delta);
      }
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
  }
  throw new Problem("The answer broke off.", response.status);
}

/** The data of each server-sent event; events end with an empty line. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
