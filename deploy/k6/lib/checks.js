// Gates: a threshold that is missed makes k6 exit with 99, and the Job fail.
import { config } from './config.js';

/** @typedef {Record<string, string[]>} Thresholds */

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
 * Never missed; it only makes k6 keep the figures of a tag apart.
 * @param {string} metric
 * @param {string} tag
 * @param {string[]} values
 * @returns {Thresholds}
 */
export function apart(metric, tag, values, statistic = 'count') {
  return Object.fromEntries(values.map((value) => [`${metric}{${tag}:${value}}`, [`${statistic}>=0`]]));
}

/**
 * The whole of a script's options.
 * @param {Record<string, import('k6/options').Scenario>} scenarios
 * @param {Thresholds} thresholds
 * @returns {import('k6/options').Options}
 */
export function options(scenarios, thresholds) {
  return {
    scenarios,
    thresholds,
    summaryTrendStats: STATS,
    setupTimeout: `${config.patience + 30}s`,
    systemTags: ['status', 'method', 'name', 'scenario', 'error_code', 'check'],
    userAgent: 'dub5-loadtest',
  };
}
