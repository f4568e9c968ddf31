// Asks one question, streamed, and looks at the whole answer: did it reach [DONE], and if not, what was it instead?
//
// The head of an answer waits for its first chunk, so `timings.waiting` is the time to the first token. k6 sees an
// answer only when it is complete: it cannot tell single gaps between tokens, only their mean.
import http from 'k6/http';
import { check, sleep } from 'k6';
import { Counter, Rate, Trend } from 'k6/metrics';
import { config } from './config.js';

/**
 * @typedef {{mark: string}} Run what setup() returns; the mark makes questions new
 * @typedef {Record<string, string>} Tags
 * @typedef {{prompt_tokens: number, completion_tokens: number}} Usage
 * @typedef {{outcome: string, honest: boolean, usage: Usage | null}} Seen
 * @typedef {{outcome: string, ttft: number}} Ended milliseconds
 * @typedef {import('k6/http').RefinedResponse<'text'>} Answer
 */

const PATH = '/v1/chat/completions';
const PHASES = ['auth', 'queue', 'cache', 'provider'];

const metrics = {
  requests: new Counter('chat_requests'), // by outcome
  whole: new Rate('chat_whole'),
  honest: new Rate('chat_honest'),
  ttft: new Trend('chat_ttft', true),
  duration: new Trend('chat_duration', true),
  perToken: new Trend('chat_time_per_token', true),
  tokens: new Counter('chat_tokens'),
  hits: new Rate('chat_hit'),
  asked: new Counter('chat_asked'), // answers for which a provider was asked
  savedTokens: new Counter('chat_saved_tokens'),
  savedDollars: new Counter('chat_saved_dollars'),
};
/** @type {Record<string, Trend>} */
const phases = Object.fromEntries(PHASES.map((phase) => [phase, new Trend(`chat_server_${phase}`, true)]));

const headers = { 'Content-Type': 'application/json', ...(config.key ? { Authorization: `Bearer ${config.key}` } : {}) };

/**
 * Throws where nobody answers within STARTUP_TIMEOUT, or where a personality that is going to be asked is not there.
 * @returns {Run}
 */
export function setup() {
  const there = listed().map((each) => each.id);
  const missing = config.personalities.filter((each) => !there.includes(each));
  if (missing.length > 0) throw new Error(`PERSONALITIES: ${missing.join(', ')} is not served at ${config.url}; there are ${there.join(', ')}`);
  return { mark: config.run || Date.now().toString(36) };
}

/** @returns {{id: string}[]} */
function listed() {
  const end = Date.now() + config.startupTimeout * 1000;
  for (;;) {
    const answer = http.get(`${config.url}/v1/models`, { headers, tags: { name: '/v1/models' }, timeout: '10s' });
    if (answer.status === 200) return /** @type {any} */ (answer.json('data'));
    if (Date.now() >= end) throw new Error(`${config.url}/v1/models answered ${answer.status || answer.error}: ${answer.body || ''}`);
    sleep(1);
  }
}

/**
 * Asks a personality; `tags` go to every metric. Returns what became of it.
 * @param {string} personality
 * @param {import('./prompts.js').Asked} asked
 * @param {Tags} tags
 * @returns {Ended}
 */
export function ask(personality, asked, tags = {}, lengths = { answer: config.maxTokens }) {
  const own = { personality, ...tags };
  const least = config.exactLengths ? { min_tokens: lengths.answer } : {};
  const body = { model: personality, stream: true, stream_options: { include_usage: true }, max_tokens: lengths.answer, ...least, ...asked };
  const answer = http.post(config.url + PATH, JSON.stringify(body), { headers, timeout: config.timeout, tags: { name: PATH, ...own } });
  const seen = judge(answer);
  metrics.requests.add(1, { ...own, outcome: seen.outcome });
  metrics.whole.add(seen.outcome === 'whole', own);
  metrics.honest.add(seen.honest, own);
  check(answer, { 'reached [DONE]': () => seen.outcome === 'whole' }, own);
  if (seen.outcome === 'whole') measure(answer, seen, own);
  return { outcome: seen.outcome, ttft: answer.timings.waiting };
}

/**
 * `outcome`: whole; cut (a stream that ends without a word); broken (it ends with an error event); refused (429, 503);
 * failed (another 5xx); rejected (another 4xx); lost (no answer). `honest`: whole, or an error in the one documented shape.
 * @param {Answer} answer
 * @returns {Seen}
 */
export function judge(answer) {
  const text = typeof answer.body === 'string' ? answer.body : '';
  // Where an answer breaks off k6 gives no status, but what had come of the body.
  if (answer.status === 0) return { outcome: text === '' ? 'lost' : 'cut', honest: false, usage: null };
  if (answer.status !== 200) return { outcome: kind(answer.status), honest: explained(answer, text), usage: null };
  const [last = '', ...before] = latest(text, 4);
  if (last === '[DONE]' && !answer.error_code) return { outcome: 'whole', honest: true, usage: usage(before) };
  const failed = Boolean((parsed(last) || {}).error);
  return { outcome: failed ? 'broken' : 'cut', honest: failed, usage: null };
}

/** @param {number} status */
function kind(status) {
  if (status === 429 || status === 503) return 'refused';
  return status >= 500 ? 'failed' : 'rejected';
}

/**
 * @param {Answer} answer
 * @param {string} text
 */
function explained(answer, text) {
  const error = (parsed(text) || {}).error;
  const patient = answer.status !== 429 && answer.status !== 503;
  return Boolean(error && error.message && error.type) && (patient || Boolean(answer.headers['Retry-After']));
}

/**
 * @param {string} text
 * @returns {any}
 */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (_) {
    return null;
  }
}

/**
 * The data of a stream's last events, the last one first. Only these are cut out: k6 shares the machine with others.
 * @param {string} text
 * @param {number} count
 */
function latest(text, count) {
  const found = [];
  for (let end = text.length; end > 0 && found.length < count; ) {
    const start = text.lastIndexOf('data: ', end - 1);
    if (start < 0) break;
    if (start === 0 || text[start - 1] === '\n') found.push(text.slice(start + 6, end).split('\n', 1)[0]);
    end = start;
  }
  return found;
}

/**
 * Tokens as one of these events tells them; null where none does.
 * @param {string[]} events
 * @returns {Usage | null}
 */
function usage(events) {
  for (const event of events) {
    const found = (parsed(event) || {}).usage;
    if (found) return found;
  }
  return null;
}

/**
 * @param {Answer} answer
 * @param {Seen} seen
 * @param {Tags} tags
 */
function measure(answer, seen, tags) {
  const { waiting, receiving, duration } = answer.timings;
  const status = answer.headers['Cache-Status'] || '';
  const hit = status.includes('; hit');
  const answered = seen.usage ? seen.usage.completion_tokens : 0;
  metrics.ttft.add(waiting, tags);
  metrics.duration.add(duration, tags);
  metrics.tokens.add(answered, tags);
  metrics.hits.add(hit, tags);
  const given = hit || status.includes('; collapsed'); // out of the cache, or of a call that another's question made
  if (!given) metrics.asked.add(1, tags);
  if (!hit && answered > 1) metrics.perToken.add(receiving / (answered - 1), tags);
  if (given && seen.usage) {
    metrics.savedTokens.add(answered, tags);
    const dollars = seen.usage.prompt_tokens * config.prices.input + answered * config.prices.output;
    metrics.savedDollars.add(dollars / 1e6, tags);
  }
  for (const [phase, milliseconds] of timings(answer.headers['Server-Timing'] || '')) {
    if (phases[phase]) phases[phase].add(milliseconds, tags);
  }
}

/**
 * `auth;dur=0.1, provider;dur=301.2` as pairs.
 * @param {string} header
 * @returns {[phase: string, milliseconds: number][]}
 */
function timings(header) {
  return [...header.matchAll(/([a-z]+);dur=([0-9.]+)/g)].map(([, phase, value]) => [phase, Number(value)]);
}
