// Everything that can be set, read from the environment once. `k6 run -e RATE=20 scenarios/steady.js`; docs/load-testing.md
// has the table. A value that is not what it has to be stops the run before the first request.

const DURATION = /^(\d+(\.\d+)?(ms|s|m|h))+$/;
/**
 * What was said, by its name: part of the summary, so that a report tells how it came about.
 * @type {Record<string, string>}
 */
export const settings = {};
const BESIDE = ['STARTUP_TIMEOUT', 'SUMMARY_TEXT']; // how it is run, not what is asked

/** @param {string} name */
function said(name) {
  const written = __ENV[name] || '';
  if (written !== '' && !BESIDE.includes(name)) settings[name] = written;
  return written;
}

/** @type {Record<string, number>} */
const SECONDS = { ms: 0.001, s: 1, m: 60, h: 3600 };

/**
 * @param {string} name
 * @param {number} otherwise
 */
function number(name, otherwise, least = 0, most = Infinity) {
  const written = said(name);
  if (written === '') return otherwise;
  const value = Number(written);
  if (!Number.isFinite(value) || value < least) throw new Error(`${name}: \`${written}\` is not a number of at least ${least}`);
  if (value > most) throw new Error(`${name}: \`${written}\` is more than ${most}`);
  return value;
}

/**
 * @param {string} name
 * @param {number} otherwise
 */
function whole(name, otherwise, least = 1) {
  const value = number(name, otherwise, least);
  if (!Number.isInteger(value)) throw new Error(`${name}: ${value} is not a whole number`);
  return value;
}

/**
 * @param {string} name
 * @param {string} otherwise
 */
function duration(name, otherwise) {
  const written = said(name) || otherwise;
  if (!DURATION.test(written)) throw new Error(`${name}: \`${written}\` is not a duration such as 90s or 5m`);
  return written;
}

/**
 * @param {string} name
 * @param {string} otherwise
 */
function list(name, otherwise) {
  const found = (said(name) || otherwise).split(',').map((each) => each.trim()).filter(Boolean);
  if (found.length === 0) throw new Error(`${name}: names nothing`);
  return found;
}

/** @param {string} name */
function toggle(name) {
  const written = said(name) || 'false';
  if (written !== 'true' && written !== 'false') throw new Error(`${name}: \`${written}\` is neither true nor false`);
  return written === 'true';
}

/**
 * `90s` or `1m30s` in seconds.
 * @param {string} written
 */
export function seconds(written) {
  let total = 0;
  for (const [, amount, unit] of written.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)) total += Number(amount) * SECONDS[unit];
  return total;
}

/**
 * What a scenario takes by default; whoever runs it may say otherwise.
 * @param {number} otherwise
 */
export function rate(otherwise) {
  return number('RATE', otherwise, 0.01);
}

/**
 * Share of requests that have to reach [DONE], where not all of them can.
 * @param {number} otherwise
 */
export function share(otherwise) {
  return number('WHOLE', otherwise, 0, 1);
}

/** @param {string} otherwise */
export function length(otherwise) {
  return seconds(duration('DURATION', otherwise));
}

export const config = Object.freeze({
  url: (__ENV.DUB5_URL || 'http://127.0.0.1:8000').replace(/\/+$/, ''), // no credentials in it: it is part of the summary
  key: __ENV.DUB5_KEY || '',
  personalities: list('PERSONALITIES', 'assistant,coder,tutor'),
  complexities: list('COMPLEXITIES', 'short,long,turns,tool,code'),
  timeout: duration('TIMEOUT', '120s'),
  startupTimeout: seconds(duration('STARTUP_TIMEOUT', '0s')), // for the service to come up
  seed: whole('SEED', 1),
  run: __ENV.RUN || '', // makes questions new; made up at the start where empty
  maxTokens: whole('MAX_TOKENS', 100),
  exactLengths: toggle('EXACT_LENGTHS'), // send `min_tokens` too: vLLM and the simulated provider know it, OpenAI does not

  // Gates.
  ttft: number('TTFT_P95', 2000, 1), // ms
  whole: share(0.99), // share of requests that reach [DONE]
  hits: number('HITS', 0.3, 0, 1), // share of answers from the cache
  drift: number('DRIFT', 1.5, 1), // so many times as long may first tokens take at the end of a soak

  // How large, for the scenarios that ask.
  maxVus: whole('MAX_VUS', 500),
  answer: seconds(duration('ANSWER', '10s')), // what one may take: so many callers are made for the rate asked
  peak: number('PEAK', 0, 0), // requests per second; 0: as the scenario has it
  steps: whole('STEPS', 10),
  stepSeconds: seconds(duration('STEP', '30s')),
  clients: whole('CLIENTS', 20),
  rounds: whole('ROUNDS', 3),
  pause: seconds(duration('PAUSE', '10s')), // between two rounds; longer than an answer takes
  questions: whole('QUESTIONS', 200),
  zipf: number('ZIPF', 0.9),
  speed: number('SPEED', 1, 0.01),
  requests: whole('REQUESTS', 100000),
  prices: { input: number('PRICE_INPUT', 0.15), output: number('PRICE_OUTPUT', 0.6) }, // $ per million tokens

  // Where the summary goes.
  summaryFile: __ENV.SUMMARY_FILE || '',
  summaryText: toggle('SUMMARY_TEXT'),
});
