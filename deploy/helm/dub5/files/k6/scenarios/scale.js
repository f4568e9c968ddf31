// Drives the autoscaler: from RATE to PEAK within a fifth of DURATION, there for two fifths, and back.
// Requests may be refused while replicas come up, but none is cut. What replicas did is in the report.
import { mixed } from '../lib/asking.js';
import { NOBODY_CUT, options as made, sent } from '../lib/checks.js';
import { setup } from '../lib/client.js';
import { config, length, rate, share } from '../lib/config.js';
import { due, through } from '../lib/profiles.js';
import { summary } from '../lib/summary.js';

const low = rate(1);
const peak = config.peak || 10 * low;
const fifth = length('10m') / 5;
/** @type {[rate: number, length: number][]} */
const stages = [[peak, fifth], [peak, 2 * fifth], [low, 1], [low, 2 * fifth - 1]];

export { setup };
export const options = made(
  { scale: through(low, stages) },
  { ...NOBODY_CUT, chat_honest: ['rate==1'], chat_whole: [`rate>=${share(0.95)}`], ...sent(due(low, stages)) },
);
export const handleSummary = summary('scale');

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  mixed(run);
}
