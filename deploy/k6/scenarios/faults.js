// RATE for DURATION while somebody takes Redis or a provider away: every request ends, in time, with an answer or with an
// error in the one documented shape. WHOLE of them are answered whole: as good as all while Redis is away, or a provider for
// which there is another (only the streams that it was in the middle of break off); of a provider that nobody stands in for,
// say a WHOLE that fits how long it is away.
import { mixed } from '../lib/asking.js';
import { options as made, sent } from '../lib/checks.js';
import { setup } from '../lib/client.js';
import { config, length, rate, seconds, share } from '../lib/config.js';
import { constant } from '../lib/profiles.js';
import { summary } from '../lib/summary.js';

const perSecond = rate(5);
const total = length('2m');

export { setup };
export const options = made(
  { faults: constant(perSecond, total) },
  {
    chat_honest: ['rate==1'],
    chat_whole: [`rate>=${share(0.95)}`],
    ...sent(perSecond * total),
    'chat_requests{outcome:cut}': ['count==0'],
    'chat_requests{outcome:lost}': ['count==0'],
    http_req_duration: [`max<${seconds(config.timeout) * 1000}`],
  },
);
export const handleSummary = summary('faults');

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  mixed(run);
}
