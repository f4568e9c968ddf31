// One request of the mix: personalities and complexities are drawn evenly, the question is new.
import exec from 'k6/execution';
import { chance } from './chance.js';
import { ask } from './client.js';
import { config } from './config.js';
import { known, prompt } from './prompts.js';

const unknown = config.complexities.filter((each) => !known(each));
if (unknown.length > 0) throw new Error(`COMPLEXITIES: there is no ${unknown.join(', ')}`);

/** @type {(values: string[], index: number) => string} */
const drawn = (values, index) => values[Math.floor(chance(index) * values.length)];

/**
 * `run` is what setup() returned.
 * @param {import('./client.js').Run} run
 * @param {import('./client.js').Tags} tags
 */
export function mixed(run, tags = {}) {
  const { name, iterationInTest } = exec.scenario;
  const personality = drawn(config.personalities, 2 * iterationInTest);
  const complexity = drawn(config.complexities, 2 * iterationInTest + 1);
  return ask(personality, prompt(complexity, `${run.mark} ${name} ${iterationInTest}`), { complexity, ...tags });
}

/** Seconds since the scenario began. */
export function elapsed() {
  return (Date.now() - exec.scenario.startTime) / 1000;
}
