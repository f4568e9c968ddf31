// RATE requests per second for DURATION, a mix of personalities and complexities: does it hold what it promises?
import { mixed } from '../lib/asking.js';
import { options as made, promised } from '../lib/checks.js';
import { setup } from '../lib/client.js';
import { length, rate } from '../lib/config.js';
import { constant } from '../lib/profiles.js';
import { summary } from '../lib/summary.js';

export { setup };
export const options = made({ steady: constant(rate(5), length('5m')) }, promised());
export const handleSummary = summary('steady');

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  mixed(run);
}
