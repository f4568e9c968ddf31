// Ten minutes of a production service: when its requests arrived, how long prompts and answers were (data/README.md).
// SPEED 2 halves all pauses, REQUESTS takes only the first ones, MAX_VUS bounds how many are under way.
// Callers wait for the moment of their request; where all are busy it is sent late, and `replay_late` says by how much.
import { sleep } from 'k6';
import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import { Trend } from 'k6/metrics';
import { NOBODY_CUT, options as made, promised } from '../lib/checks.js';
import { ask, setup } from '../lib/client.js';
import { chance } from '../lib/chance.js';
import { config } from '../lib/config.js';
import { shared } from '../lib/profiles.js';
import { sized } from '../lib/prompts.js';
import { summary } from '../lib/summary.js';

/** @type {[at: number, prompt: number, answer: number][]} milliseconds since the first; tokens */
const rows = new SharedArray('arrivals', () => JSON.parse(open('../data/arrivals.json')).slice(0, config.requests));
const late = new Trend('replay_late', true);
const LEAD = 1000; // ms, for all callers to be there before the first request
const longest = rows[rows.length - 1][0] / 1000 / config.speed + 120;

export { setup };
export const options = made(
  { replay: shared(config.maxVus, rows.length, longest) },
  { ...promised([]), ...NOBODY_CUT, replay_late: ['p(99)<1000'] },
);
export const handleSummary = summary('replay');

/** @param {import('../lib/client.js').Run} run */
export default function (run) {
  const index = exec.scenario.iterationInTest;
  const [at, prompt, answer] = rows[index];
  const pause = exec.scenario.startTime + LEAD + at / config.speed - Date.now();
  if (pause > 0) sleep(pause / 1000);
  late.add(Math.max(0, -pause));
  const personality = config.personalities[Math.floor(chance(index) * config.personalities.length)];
  ask(personality, sized(`${run.mark} ${index}`, prompt), {}, { answer });
}
