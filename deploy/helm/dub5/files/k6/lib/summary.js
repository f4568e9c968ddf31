// What is left of a run: one line of JSON on stdout, which outlives its pod in the logs, and a file where SUMMARY_FILE says so.
// `dub5 loadtest report` reads either.
import { ALWAYS } from './checks.js';
import { config, settings } from './config.js';

/**
 * What k6 hands to handleSummary(), as far as it is read here.
 * @typedef {Record<string, number>} Values
 * @typedef {{values: Values, thresholds?: Record<string, {ok: boolean}>}} Metric
 * @typedef {{metrics: Record<string, Metric>, state: {testRunDurationMs: number}}} Data
 */

/**
 * What is left of a run.
 * @typedef {{metric: string, gate: string, ok: boolean}} Gate
 * @typedef {{scenario: string, passed: boolean, thresholds: Gate[], findings: object, metrics: Record<string, Values>}} Found
 */

/**
 * `more(values)` adds findings of the scenario's own; `values` gives the figures of a metric by its whole name.
 * @param {string} scenario
 * @param {(values: (name: string) => Values) => object} more
 * @returns {(data: Data) => Record<string, string>}
 */
export function summary(scenario, more = () => ({})) {
  return (data) => {
    /** @type {(name: string) => Values} */
    const values = (name) => (data.metrics[name] ? data.metrics[name].values : {});
    const ended = Date.now() / 1000;
    const gates = thresholds(data);
    const judged = gates.some(({ metric }) => metric.startsWith('chat_ttft')) ? { TTFT_P95: `${config.ttft}` } : {};
    const found = {
      dub5_loadtest: 1,
      scenario,
      passed: true,
      began: ended - data.state.testRunDurationMs / 1000,
      ended,
      url: config.url,
      settings: { ...settings, ...judged },
      thresholds: gates,
      findings: more(values),
      metrics: figures(data),
    };
    found.passed = found.thresholds.every((each) => each.ok) && (values('chat_requests').count || 0) > 0; // not where it ended in setup()
    const line = `${JSON.stringify(found)}\n`;
    const shown = config.summaryText ? text(found) : line;
    return config.summaryFile ? { stdout: shown, [config.summaryFile]: line } : { stdout: shown };
  };
}

/**
 * @param {Data} data
 * @returns {Gate[]}
 */
function thresholds(data) {
  return Object.entries(data.metrics)
    .flatMap(([metric, { thresholds: of = {} }]) => Object.entries(of).map(([gate, { ok }]) => ({ metric, gate, ok })))
    .filter(({ gate }) => !gate.endsWith(ALWAYS));
}

/**
 * Ours and a few of k6's own; nothing of a tag that never came.
 * @param {Data} data
 */
function figures(data) {
  /** @type {Record<string, Values>} */
  const made = {};
  for (const [name, { values }] of Object.entries(data.metrics)) {
    const empty = name.includes('{') && (values.count === 0 || values.passes + values.fails === 0);
    if (!empty && !name.startsWith('http_req_')) made[name] = Object.fromEntries(Object.entries(values).map(([key, value]) => [key, Math.round(value * 1e6) / 1e6]));
  }
  return made;
}

/** @param {Found} found */
function text({ scenario, passed, thresholds: gates, findings, metrics }) {
  /** @type {(name: string, key: string, digits?: number) => string} */
  const of = (name, key, digits = 0) => ((metrics[name] || {})[key] || 0).toFixed(digits);
  const lines = [
    '',
    `${scenario}: ${passed ? 'passed' : 'FAILED'}`,
    `  requests   ${of('chat_requests', 'count')}, ${of('chat_requests', 'rate', 1)}/s, ${of('chat_whole', 'rate', 4)} of them whole`,
    `  1st token  ${of('chat_ttft', 'med')} ms median, ${of('chat_ttft', 'p(95)')} ms p95, ${of('chat_ttft', 'p(99)')} ms p99`,
    `  from cache ${of('chat_hit', 'rate', 4)}`,
    ...Object.entries(findings).map(([name, value]) => `  ${name}: ${typeof value === 'object' ? JSON.stringify(value) : value}`),
    ...gates.filter((each) => !each.ok).map((each) => `  missed: ${each.metric} ${each.gate}`),
  ];
  return `${lines.join('\n')}\n`;
}
