// CLIENTS callers ask the same new question at the same moment, ROUNDS times: each question costs one call of the provider.
import { sleep } from 'k6';
import exec from 'k6/execution';
import { NOBODY_HURT, options as made } from '../lib/checks.js';
import { ask, setup } from '../lib/client.js';
import { config } from '../lib/config.js';
import { each } from '../lib/profiles.js';
import { prompt } from '../lib/prompts.js';
import { summary } from '../lib/summary.js';

const LEAD = 1; // seconds, for all callers to be there

export { setup };
export const options = made(
  { stampede: each(config.clients, config.rounds, LEAD + config.pause * config.rounds + 120) },
  { ...NOBODY_HURT, chat_asked: [`count<=${config.rounds}`] },
);
export const handleSummary = summary('stampede', (values) => ({
  requests: values('chat_requests').count || 0,
  provider_calls: values('chat_asked').count || 0,
}));

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  const round = exec.vu.iterationInScenario;
  const pause = exec.scenario.startTime / 1000 + LEAD + config.pause * round - Date.now() / 1000;
  if (pause > 0) sleep(pause);
  const personality = config.personalities[round % config.personalities.length];
  ask(personality, prompt('short', `${run.mark} stampede ${round}`), { complexity: 'short' });
}
