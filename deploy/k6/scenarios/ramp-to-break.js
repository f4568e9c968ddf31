// STEPS steps of STEP each, from RATE up to PEAK requests per second: at which one does it stop to hold what it promises?
// A run that finds the breaking point has done its work; it fails only where the first step breaks already.
import { elapsed, mixed } from '../lib/asking.js';
import { apart, options as made } from '../lib/checks.js';
import { setup } from '../lib/client.js';
import { config, rate } from '../lib/config.js';
import { through } from '../lib/profiles.js';
import { summary } from '../lib/summary.js';

const lowest = rate(2);
const highest = config.peak || 10 * lowest;
/** @type {(index: number) => number} */
const share = (index) => (config.steps > 1 ? index / (config.steps - 1) : 1);
/** @type {(index: number) => number} */
const rateOf = (index) => Math.round((lowest + (highest - lowest) * share(index)) * 10) / 10;
const steps = [...Array(config.steps).keys()].map((index) => ({ name: `step_${String(index + 1).padStart(2, '0')}`, rate: rateOf(index) }));

const names = steps.map((step) => step.name);
// All in one, since k6 makes the callers of each scenario before the first request, those of steps that overlap too.
/** @type {[rate: number, length: number][]} */
const stages = steps.flatMap((step) => [[step.rate, 0], [step.rate, config.stepSeconds]]);

export { setup };
export const options = made(
  { ramp: through(lowest, stages) },
  {
    ...apart('chat_requests', 'step', names),
    ...apart('chat_ttft', 'step', names, 'p(95)'),
    ...apart('chat_whole', 'step', names, 'rate'),
    'chat_whole{step:step_01}': [`rate>=${config.whole}`],
    'chat_ttft{step:step_01}': [`p(95)<${config.ttft}`],
  },
);

/** The last step that held, and why the next one did not; `breaks` is null where all held. */
export const handleSummary = summary('ramp-to-break', (values) => {
  const seen = steps.map((step) => {
    /** @type {(metric: string) => import('../lib/summary.js').Values} */
    const of = (metric) => values(`${metric}{step:${step.name}}`);
    const whole = of('chat_whole').rate || 0;
    const ttft = of('chat_ttft')['p(95)'] || 0;
    const due = step.rate * config.stepSeconds;
    const unsent = Math.max(0, Math.round(0.98 * due - 1 - (of('chat_requests').count || 0))); // k6 may begin a little early or late
    return { rate: step.rate, whole, ttft, unsent, why: reason(whole, ttft, unsent) };
  });
  const broken = seen.findIndex((step) => step.why !== '');
  const breaks = broken < 0 ? null : { rate: seen[broken].rate, why: seen[broken].why };
  const holds = broken < 0 ? highest : broken === 0 ? 0 : seen[broken - 1].rate;
  return { holds, breaks, steps: seen };
});

/**
 * @param {number} whole
 * @param {number} ttft
 * @param {number} unsent
 */
function reason(whole, ttft, unsent) {
  if (whole < config.whole) return `${((1 - whole) * 100).toFixed(1)} % of the requests did not reach their end`;
  if (ttft >= config.ttft) return `the first token took ${ttft.toFixed(0)} ms (p95)`;
  return unsent > 0 ? `k6 had no caller left for ${unsent} requests: raise MAX_VUS, or the service is behind` : '';
}

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  const index = Math.min(steps.length - 1, Math.floor(elapsed() / config.stepSeconds));
  mixed(run, { step: names[index] });
}
