// RATE, then within a moment PEAK (ten times as much) for a third of DURATION, then RATE again.
// In the spike requests may be refused, but none may be cut; after it everything is as before.
import { elapsed, mixed } from '../lib/asking.js';
import { NOBODY_CUT, apart, options as made, sent, tabled } from '../lib/checks.js';
import { setup } from '../lib/client.js';
import { config, length, rate } from '../lib/config.js';
import { due, through } from '../lib/profiles.js';
import { summary } from '../lib/summary.js';

const usual = rate(5);
const peak = config.peak || 10 * usual;
const third = length('3m') / 3;
const rise = Math.min(5, third / 4); // seconds

/** @type {[rate: number, length: number][]} */
const stages = [[usual, third], [peak, rise], [peak, third - 2 * rise], [usual, rise], [usual, third]];

const PHASES = ['before', 'spike', 'settling', 'after'];

export { setup };
export const options = made(
  { spike: through(usual, stages) },
  {
    ...NOBODY_CUT,
    ...apart('chat_requests', 'phase', PHASES),
    ...tabled('phase', PHASES),
    ...sent(due(usual, stages)),
    chat_honest: ['rate==1'],
    'chat_whole{phase:before}': [`rate>=${config.whole}`],
    'chat_whole{phase:after}': [`rate>=${config.whole}`],
    'chat_ttft{phase:after}': [`p(95)<${config.ttft}`],
  },
);
export const handleSummary = summary('spike');

/**
 * The queue of the spike has a sixth of the time to empty.
 * @param {number} now
 */
function phase(now) {
  if (now < third) return 'before';
  if (now < 2 * third) return 'spike';
  return now < 2.5 * third ? 'settling' : 'after';
}

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  mixed(run, { phase: phase(elapsed()) });
}
