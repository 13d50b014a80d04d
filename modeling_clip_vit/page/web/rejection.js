// Whether a picture shows any of some labels at all: search/rejection.py says how it is measured.

import { similarities } from "./vectors.js";

/** The fixed texts about everything, row by row, without those nearest to the labels. */
export function otherTexts(background, labels) {
  const size = labels[0].length;
  const nearness = new Float32Array(background.length / size).fill(-1);
  for (const label of labels) {
    similarities(background, label).forEach((cosine, row) => (nearness[row] = Math.max(nearness[row], cosine)));
  }
  const rows = [...nearness.keys()].sort((a, b) => nearness[a] - nearness[b] || a - b);
  const kept = rows.slice(0, rows.length - Math.max(1, Math.floor(rows.length / 40)));
  const others = new Float32Array(kept.length * size);
  kept.forEach((row, place) => others.set(background.subarray(row * size, (row + 1) * size), place * size));
  return others;
}

/**
 * By how many standard deviations the best label of a picture exceeds what the best of so many
 * reaches by chance.
 *
 * @param {Float32Array} vector of the picture
 * @param {number} best the cosine of its best label
 * @param {Float32Array} others as `otherTexts` gives them
 * @param {number} count of labels
 */
export function classMargin(vector, best, others, count) {
  const cosines = similarities(others, vector);
  const mean = cosines.reduce((sum, cosine) => sum + cosine, 0) / cosines.length;
  const squares = cosines.reduce((sum, cosine) => sum + (cosine - mean) ** 2, 0);
  const deviation = Math.sqrt(squares / (cosines.length - 1));
  return (best - mean) / Math.max(deviation, 1e-6) - Math.sqrt(2 * Math.log(Math.max(count, 2)));
}
