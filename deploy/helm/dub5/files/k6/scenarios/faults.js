// RATE for DURATION while somebody takes Redis or a provider away: every request ends, in time, with an answer or with an
// error in the one documented shape. How many are answered depends on what is away; WHOLE says how many have to be.
import { mixed } from '../lib/asking.js';
import { options as made } from '../lib/checks.js';
import { setup } from '../lib/client.js';
import { config, length, rate, seconds } from '../lib/config.js';
import { constant } from '../lib/profiles.js';
import { summary } from '../lib/summary.js';

const whole = __ENV.WHOLE ? config.whole : 0;

export { setup };
export const options = made(
  { faults: constant(rate(5), length('2m')) },
  {
    chat_honest: ['rate==1'],
    chat_whole: [`rate>=${whole}`],
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
