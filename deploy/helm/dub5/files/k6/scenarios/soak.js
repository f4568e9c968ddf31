// RATE for a long DURATION: the last third must be as good as the first. Memory and connections: see the report.
import { elapsed, mixed } from '../lib/asking.js';
import { NOBODY_CUT, apart, options as made, promised } from '../lib/checks.js';
import { setup } from '../lib/client.js';
import { config, length, rate } from '../lib/config.js';
import { constant } from '../lib/profiles.js';
import { summary } from '../lib/summary.js';

const total = length('15m');
const THIRDS = ['1', '2', '3'];
const third = () => THIRDS[Math.min(2, Math.floor((3 * elapsed()) / total))];

export { setup };
export const options = made(
  { soak: constant(rate(5), total) },
  {
    ...promised(),
    ...NOBODY_CUT,
    ...apart('chat_duration', 'third', THIRDS, 'p(95)'),
    ...Object.fromEntries(THIRDS.map((each) => [`chat_ttft{third:${each}}`, [`p(95)<${config.ttft}`]])),
  },
);
export const handleSummary = summary('soak', (values) => {
  const [first, , last] = THIRDS.map((each) => values(`chat_ttft{third:${each}}`)['p(95)'] || 0);
  return { drift: first > 0 ? Math.round((last / first) * 1000) / 1000 : null }; // of the time to first token, p95
});

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  mixed(run, { third: third() });
}
