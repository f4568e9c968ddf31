// Randomness that is the same in every run with the same SEED, whichever virtual user draws.
import { config } from './config.js';

/**
 * A number in [0, 1) for a whole number: mulberry32 by Tommy Ettinger, public domain.
 * @param {number} index
 */
export function chance(index) {
  let t = (index + 1 + config.seed * 0x9e3779b9) | 0;
  t = (t + 0x6d2b79f5) | 0;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}

/**
 * Draws ranks 0 to count-1 by a Zipf law: rank k has the weight 1/(k+1)^exponent.
 * @param {number} count
 * @param {number} exponent
 * @returns {(index: number) => number}
 */
export function zipf(count, exponent) {
  /** @type {number[]} */
  const sums = [];
  let sum = 0;
  for (let rank = 1; rank <= count; rank += 1) sums.push((sum += 1 / rank ** exponent));
  return (index) => {
    const wanted = chance(index) * sum;
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sums[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  };
}
