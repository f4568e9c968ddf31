// Gates: a threshold that is missed makes k6 exit with 99, and the Job fail.
import { config } from './config.js';

/** @typedef {Record<string, string[]>} Thresholds */

export const ALWAYS = '>-1'; // the gates of `apart`
const OUTCOMES = ['whole', 'cut', 'broken', 'refused', 'failed', 'rejected', 'lost'];
const BEARABLE = 0.02; // of the requests due: a caller that k6 makes under load costs the request it is made for
const STATS = ['count', 'avg', 'min', 'med', 'max', 'p(90)', 'p(95)', 'p(99)'];

/** Every stream that began reached its end, and nobody was left without an answer. */
export const NOBODY_CUT = {
  'chat_requests{outcome:cut}': ['count==0'],
  'chat_requests{outcome:broken}': ['count==0'],
  'chat_requests{outcome:lost}': ['count==0'],
};

/** The same, and nobody was turned away either. */
export const NOBODY_HURT = {
  ...NOBODY_CUT,
  'chat_requests{outcome:refused}': ['count==0'],
  'chat_requests{outcome:failed}': ['count==0'],
  'chat_requests{outcome:rejected}': ['count==0'],
};

/** Answers in time and whole, for each personality and each complexity by itself; and k6 had a caller for every request. */
export function promised(complexities = config.complexities) {
  /** @type {Thresholds} */
  const made = {
    chat_whole: [`rate>=${config.whole}`],
    chat_ttft: [`p(95)<${config.ttft}`],
    dropped_iterations: ['count==0'],
  };
  for (const personality of config.personalities) {
    made[`chat_whole{personality:${personality}}`] = [`rate>=${config.whole}`];
    made[`chat_ttft{personality:${personality}}`] = [`p(95)<${config.ttft}`];
  }
  for (const complexity of complexities) {
    made[`chat_whole{complexity:${complexity}}`] = [`rate>=${config.whole}`];
    made[`chat_ttft{complexity:${complexity}}`] = [`p(95)<${config.ttft}`];
  }
  return made;
}

/**
 * k6 had a caller for as good as every request, where some are waited for long: else it was not the load that was asked for.
 * @param {number} due requests
 * @returns {Thresholds}
 */
export function sent(due) {
  return { dropped_iterations: [`count<=${Math.floor(BEARABLE * due)}`] };
}

/**
 * Never missed; it only makes k6 keep the figures of a tag apart, and is not shown.
 * @param {string} metric
 * @param {string} tag
 * @param {string[]} values
 * @returns {Thresholds}
 */
export function apart(metric, tag, values, statistic = 'count') {
  return Object.fromEntries(values.map((value) => [`${metric}{${tag}:${value}}`, [`${statistic}${ALWAYS}`]]));
}

/**
 * The two figures of the report's tables, apart.
 * @param {string} tag
 * @param {string[]} values
 * @returns {Thresholds}
 */
export function tabled(tag, values) {
  return { ...apart('chat_ttft', tag, values, 'p(95)'), ...apart('chat_whole', tag, values, 'rate') };
}

/**
 * The whole of a script's options. A run without a request passes no gate: k6 lets shares and percentiles of nothing pass.
 * @param {Record<string, import('k6/options').Scenario>} scenarios
 * @param {Thresholds} thresholds
 * @returns {import('k6/options').Options}
 */
export function options(scenarios, thresholds) {
  return {
    scenarios,
    thresholds: {
      chat_requests: ['count>0'],
      ...apart('chat_requests', 'outcome', OUTCOMES),
      ...tabled('personality', config.personalities),
      ...tabled('complexity', config.complexities),
      ...thresholds,
    },
    summaryTrendStats: STATS,
    setupTimeout: `${config.startupTimeout + 30}s`,
    systemTags: ['status', 'method', 'name', 'scenario', 'error_code', 'check'],
    userAgent: 'dub5-loadtest',
  };
}
