// Arithmetic on embeddings of unit length.

/** The length of a vector. */
export function lengthOf(vector) {
  let sum = 0;
  for (const value of vector) sum += value * value;
  return Math.sqrt(sum);
}

/** Divide a vector by its length, in place. */
export function normalize(vector) {
  const length = lengthOf(vector) || 1;
  for (let i = 0; i < vector.length; i++) vector[i] /= length;
  return vector;
}

/** The cosine of two vectors of unit length. */
export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** The weighted sum of vectors. */
export function combine(vectors, weights) {
  const sum = new Float32Array(vectors[0].length);
  vectors.forEach((vector, term) => {
    for (let i = 0; i < sum.length; i++) sum[i] += weights[term] * vector[i];
  });
  return sum;
}

/** The cosines of a query with every row of a matrix, row by row. */
export function similarities(matrix, query) {
  const size = query.length;
  const scores = new Float32Array(matrix.length / size);
  for (let row = 0, at = 0; row < scores.length; row++, at += size) {
    let a = 0, b = 0, c = 0, d = 0, i = 0;
    for (; i + 3 < size; i += 4) {
      a += matrix[at + i] * query[i];
      b += matrix[at + i + 1] * query[i + 1];
      c += matrix[at + i + 2] * query[i + 2];
      d += matrix[at + i + 3] * query[i + 3];
    }
    for (; i < size; i++) a += matrix[at + i] * query[i];
    scores[row] = a + b + c + d;
  }
  return scores;
}

/**
 * The rows with the highest scores, best first; of equal scores, the earlier row.
 *
 * @param {Float32Array} scores
 * @param {number} count how many
 * @param {Uint8Array | null} allowed 1 for a row that may be among them; null for all
 */
export function topRows(scores, count, allowed) {
  const rows = [];
  for (let row = 0; row < scores.length; row++) if (!allowed || allowed[row]) rows.push(row);
  return rows.sort((a, b) => scores[b] - scores[a] || a - b).slice(0, count);
}

/** The 65,536 values of half precision, and then a file of them in single precision. */
export function fromHalves(buffer) {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size =
      exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : Infinity)
      : (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[bits] = bits & 0x8000 ? -size : size;
  }
  return Float32Array.from(new Uint16Array(buffer), (bits) => table[bits]);
}

/** Probabilities of logits. */
export function softmax(logits) {
  const most = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}
