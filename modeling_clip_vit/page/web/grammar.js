// What a query means: "horse + stripes", "apple - fruit", "2:dog + cat". search/query.py has the
// same grammar.

/** A weight, and the colon after it; "12:30" is a time. */
const WEIGHT = /^(\d+(?:\.\d*)?|\.\d+):(?!\d)/;

/**
 * The terms of a query. A plus or a minus counts with a space on both sides, so that "x-ray" is
 * one word. While a person types, a sign without a text after it is left out.
 *
 * @param {string} query as typed
 * @returns {{text: string, weight: number}[]}
 */
export function parseQuery(query) {
  const pieces = ` ${query.trim()} `.split(/\s([+-])(?=\s)/);
  const terms = [];
  for (let i = 0; i < pieces.length; i += 2) {
    const sign = pieces[i - 1] === "-" ? -1 : 1;
    const part = pieces[i].trim();
    const match = part.match(WEIGHT);
    const text = match ? part.slice(match[0].length).trim() : part;
    const weight = match ? Number(match[1]) : 1;
    if (text && weight) terms.push({ text, weight: sign * weight });
  }
  return terms;
}
