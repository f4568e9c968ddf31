// How requests arrive. Rates are an open model: they come whether or not the service keeps up, as callers do.
import { config } from './config.js';

/**
 * k6 counts in whole numbers: 0.5 per second is 30 per minute.
 * @param {number} rate
 */
function arrivals(rate) {
  return Number.isInteger(rate) ? { count: rate, timeUnit: '1s' } : { count: Math.max(1, Math.round(rate * 60)), timeUnit: '1m' };
}

/**
 * Callers that are there from the start, a third of a megabyte each. Making one under load costs the request it is made for.
 * @param {number} rate
 */
function users(rate) {
  const wanted = Math.min(config.maxVus, Math.max(2, Math.ceil(rate * config.answer)));
  return { preAllocatedVUs: wanted, maxVUs: Math.max(wanted, config.maxVus) };
}

/** @type {(value: number) => string} */
const seconds = (value) => `${Math.max(0, Math.round(value * 1000))}ms`;

/**
 * Evenly, `rate` per second.
 * @param {number} rate
 * @param {number} length
 * @param {Partial<import('k6/options').ConstantArrivalRateScenario>} more
 * @returns {import('k6/options').ConstantArrivalRateScenario}
 */
export function constant(rate, length, more = {}) {
  const { count, timeUnit } = arrivals(rate);
  return { executor: 'constant-arrival-rate', rate: count, timeUnit, duration: seconds(length), gracefulStop: config.timeout, ...users(rate), ...more };
}

/**
 * Through `[rate, seconds]` pairs: within that time, evenly, to that rate.
 * @param {number} from
 * @param {[rate: number, length: number][]} stages
 * @returns {import('k6/options').RampingArrivalRateScenario}
 */
export function through(from, stages) {
  const peak = Math.max(from, ...stages.map(([rate]) => rate));
  return {
    executor: 'ramping-arrival-rate',
    startRate: Math.round(from * 60),
    timeUnit: '1m',
    stages: stages.map(([rate, length]) => ({ target: Math.round(rate * 60), duration: seconds(length) })),
    gracefulStop: config.timeout,
    ...users(peak),
  };
}

/**
 * Requests that `through` comes to.
 * @param {number} from
 * @param {[rate: number, length: number][]} stages
 */
export function due(from, stages) {
  return stages.reduce((sum, [rate, length], index) => sum + (length * (rate + (index > 0 ? stages[index - 1][0] : from))) / 2, 0);
}

/**
 * Callers who ask, wait for the end and ask again, on the connection that they have.
 * @param {number} count
 * @param {number} length
 * @returns {import('k6/options').ConstantVUsScenario}
 */
export function callers(count, length) {
  return { executor: 'constant-vus', vus: count, duration: seconds(length), gracefulStop: config.timeout };
}

/**
 * Each of `count` callers asks so many times.
 * @param {number} count
 * @param {number} iterations
 * @param {number} longest
 * @returns {import('k6/options').PerVUIterationsScenario}
 */
export function each(count, iterations, longest) {
  return { executor: 'per-vu-iterations', vus: count, iterations, maxDuration: seconds(longest), gracefulStop: config.timeout };
}

/**
 * So many iterations in all, divided among callers as they become free.
 * @param {number} count
 * @param {number} iterations
 * @param {number} longest
 * @returns {import('k6/options').SharedIterationsScenario}
 */
export function shared(count, iterations, longest) {
  const vus = Math.min(count, iterations);
  return { executor: 'shared-iterations', vus, iterations, maxDuration: seconds(longest), gracefulStop: config.timeout };
}
