// CLIENTS callers who keep their connections, for DURATION, while replicas leave: scale down, roll out or drain a node
// meanwhile. One stream that is cut, one request that is refused, and it fails.
import { mixed } from '../lib/asking.js';
import { NOBODY_HURT, options as made } from '../lib/checks.js';
import { setup } from '../lib/client.js';
import { config, length } from '../lib/config.js';
import { callers } from '../lib/profiles.js';
import { summary } from '../lib/summary.js';

export { setup };
export const options = made({ drain: callers(config.clients, length('3m')) }, NOBODY_HURT);
export const handleSummary = summary('drain');

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  mixed(run);
}
