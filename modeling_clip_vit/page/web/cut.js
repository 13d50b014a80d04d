// Which hits fit a query, and which are only the nearest of those that do not: search/cut.py says
// how it is measured, and site.json has what was measured of this collection.

import { dot, similarities } from "./vectors.js";

/**
 * By how many standard deviations each row exceeds what the best of so many reaches by chance.
 *
 * @param cut `cut` of site.json
 * @param query as `embedQuery` of worker.js makes it
 * @param {Float32Array} matrix the collection's vectors, row by row
 * @param {number} searched how many pictures the filters let through
 * @returns {Float32Array} a margin for every row
 */
export function margins(cut, query, matrix, searched) {
  const direction = query.vector.map(
    (value, i) => value - query.textWeight * cut.text_mean[i] - query.pictureWeight * cut.picture_mean[i],
  );
  const deviation = Math.hypot(
    query.textNorm * cut.text_deviation,
    query.pictureNorm * cut.picture_deviation,
  );
  const center = dot(cut.picture_mean, direction);
  const chance = Math.sqrt(2 * Math.log(Math.max(searched, 2)));
  return similarities(matrix, direction).map((product) => (product - center) / deviation - chance);
}
