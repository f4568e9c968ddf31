// RATE for a long DURATION: the last third must be as good as the first. Memory and connections: see the report.
// A gate of k6 cannot compare two thirds. So each caller compares its first tokens of the last third with the median of its
// own of the first, and the gate is on the median of that: 1 where nothing changed, however few each has seen. Where a third
// is too short for all callers (ANSWER) to be asked in, there is nothing to compare, and the gate is missed too.
import { Trend } from 'k6/metrics';
import { elapsed, mixed } from '../lib/asking.js';
import { NOBODY_CUT, apart, options as made, promised } from '../lib/checks.js';
import { setup } from '../lib/client.js';
import { config, length, rate } from '../lib/config.js';
import { constant } from '../lib/profiles.js';
import { summary } from '../lib/summary.js';

const total = length('15m');
const THIRDS = ['1', '2', '3'];
const drift = new Trend('chat_drift');
/** @type {number[]} */
const firsts = []; // ms; of this caller
const third = () => THIRDS[Math.min(2, Math.floor((3 * elapsed()) / total))];

export { setup };
export const options = made(
  { soak: constant(rate(5), total) },
  {
    ...promised(),
    ...NOBODY_CUT,
    ...apart('chat_duration', 'third', THIRDS, 'p(95)'),
    ...Object.fromEntries(THIRDS.map((each) => [`chat_ttft{third:${each}}`, [`p(95)<${config.ttft}`]])),
    ...Object.fromEntries(THIRDS.map((each) => [`chat_whole{third:${each}}`, [`rate>=${config.whole}`]])),
    chat_drift: ['min>0', `med<=${config.drift}`],
  },
);
export const handleSummary = summary('soak', (values) => {
  const [first, , last] = THIRDS.map((each) => values(`chat_ttft{third:${each}}`)['p(95)'] || 0);
  return { drift: first > 0 ? Math.round((last / first) * 1000) / 1000 : null }; // of the time to first token, p95
});

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  const now = third();
  const { outcome, ttft } = mixed(run, { third: now });
  if (outcome !== 'whole') return;
  if (now === '1') firsts.push(ttft);
  if (now === '3' && firsts.length > 0) drift.add(ttft / median(firsts));
}

/** @param {number[]} values */
function median(values) {
  const ordered = [...values].sort((one, other) => one - other);
  return ordered[Math.floor(ordered.length / 2)];
}
