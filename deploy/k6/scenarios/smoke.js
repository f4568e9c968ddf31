// Every personality answers a question of every complexity, once.
import exec from 'k6/execution';
import { NOBODY_HURT, options as made } from '../lib/checks.js';
import { ask, setup } from '../lib/client.js';
import { config } from '../lib/config.js';
import { shared } from '../lib/profiles.js';
import { prompt } from '../lib/prompts.js';
import { summary } from '../lib/summary.js';

const { personalities, complexities } = config;
const count = personalities.length * complexities.length;

export { setup };
export const options = made({ smoke: shared(2, count, 600) }, { ...NOBODY_HURT, chat_requests: [`count==${count}`] });
export const handleSummary = summary('smoke');

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  const index = exec.scenario.iterationInTest;
  const complexity = complexities[index % complexities.length];
  const personality = personalities[Math.floor(index / complexities.length)];
  ask(personality, prompt(complexity, `${run.mark} smoke ${index}`), { complexity });
}
