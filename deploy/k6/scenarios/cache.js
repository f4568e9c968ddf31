// Questions that repeat by a Zipf law, word for word: how many answers come from the cache, and what does that save?
// QUESTIONS and ZIPF say how much they repeat; the most that any cache could hit is in the summary beside what this one did.
import exec from 'k6/execution';
import { Counter } from 'k6/metrics';
import { options as made } from '../lib/checks.js';
import { zipf } from '../lib/chance.js';
import { ask, setup } from '../lib/client.js';
import { config, length, rate } from '../lib/config.js';
import { constant } from '../lib/profiles.js';
import { prompt } from '../lib/prompts.js';
import { summary } from '../lib/summary.js';

const perSecond = rate(10);
const total = length('2m');
const draw = zipf(config.questions, config.zipf);

export { setup };
export const options = made(
  { cache: constant(perSecond, total) },
  { chat_whole: [`rate>=${config.whole}`], chat_hit: [`rate>=${config.hits}`], dropped_iterations: ['count==0'] },
);

const sent = new Counter('cache_questions_sent');

export const handleSummary = summary('cache', (values) => {
  const count = values('cache_questions_sent').count || 0;
  const different = new Set([...Array(count).keys()].map(draw)).size;
  return {
    hit_ratio: values('chat_hit').rate || 0,
    best_possible: count > 0 ? 1 - different / count : 0,
    saved_tokens: values('chat_saved_tokens').count || 0,
    saved_dollars: values('chat_saved_dollars').count || 0,
  };
});

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  const question = draw(exec.scenario.iterationInTest);
  const personality = config.personalities[question % config.personalities.length];
  sent.add(1);
  ask(personality, prompt('short', `${run.mark} number ${question}`), { complexity: 'short' });
}
