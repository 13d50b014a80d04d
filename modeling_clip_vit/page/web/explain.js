// Why a picture matches a text: cover a part of either, and see how much of the match is gone.

import { combine, dot, normalize } from "./vectors.js";

/** Cells along each side; the square that covers a cell is twice as wide, so neighbours overlap. */
const CELLS = 8;

/**
 * A prepared picture with each of its parts covered in turn, by the picture's own mean colour.
 *
 * @param {Float32Array} pixels of shape (3, size, size)
 */
export function coveredPictures(pixels, size) {
  const pictures = [];
  const cell = size / CELLS, area = size * size;
  const means = [0, 1, 2].map((channel) => {
    const values = pixels.subarray(channel * area, (channel + 1) * area);
    return values.reduce((sum, value) => sum + value, 0) / area;
  });
  for (let row = 0; row < CELLS; row++) {
    for (let column = 0; column < CELLS; column++) {
      const top = Math.max(0, Math.round((row - 0.5) * cell));
      const left = Math.max(0, Math.round((column - 0.5) * cell));
      const bottom = Math.min(size, Math.round((row + 1.5) * cell));
      const right = Math.min(size, Math.round((column + 1.5) * cell));
      const copy = pixels.slice();
      for (let channel = 0; channel < 3; channel++) {
        for (let y = top; y < bottom; y++) {
          const at = (channel * size + y) * size;
          copy.fill(means[channel], at + left, at + right);
        }
      }
      pictures.push(copy);
    }
  }
  return pictures;
}

/** The words of a text, in any script, each with the text that is left without it. */
function wordsWithout(text) {
  const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });
  return [...segmenter.segment(text)]
    .filter((part) => part.isWordLike)
    .map(({ segment, index }) => ({
      word: segment,
      rest: `${text.slice(0, index)}${text.slice(index + segment.length)}`.replace(/\s+/g, " ").trim(),
    }));
}

/**
 * What each part of a picture and each word of a query adds to their cosine.
 *
 * @param towers both towers
 * @param {Float32Array} pixels of shape (3, size, size)
 * @param {{text?: string, vector: Float32Array, weight: number}[]} terms of the query
 * @param {(share: number) => void} step is called with the share that is done, from 0 to 1
 */
export async function explain(towers, pixels, size, terms, step) {
  const query = queryOf(terms);
  const [picture] = await towers.embedPixels([pixels], size);
  const score = dot(picture, query);
  const covered = coveredPictures(pixels, size);
  const vectors = await towers.embedPixels(covered, size, (n) => step(n / covered.length));
  const parts = vectors.map((each) => score - dot(each, query));
  const words = [];
  for (const term of terms) {
    for (const { word, rest } of term.text === undefined ? [] : wordsWithout(term.text)) {
      const others = terms.filter((other) => other !== term);
      if (rest) others.push({ ...term, vector: await towers.embedText(rest) });
      if (others.length) words.push({ word, value: score - dot(picture, queryOf(others)) });
    }
  }
  return { score, cells: CELLS, parts, words };
}

const queryOf = (terms) => normalize(combine(terms.map(({ vector }) => vector), terms.map(({ weight }) => weight)));
