// All computation, off the page's own thread: towers, vectors, explanations.

import { explain } from "./explain.js";
import { pixelValues } from "./resize.js";
import { Towers, download } from "./towers.js";
import { combine, dot, fromHalves, similarities, softmax, topRows } from "./vectors.js";

let site, towers, matrix;

const report = (bytes) => postMessage({ progress: bytes });

/** The vector of a query's terms: texts, rows of the collection, or vectors of dropped pictures. */
async function queryVector(terms) {
  const size = site.embedding_size;
  const vectors = [];
  for (const term of terms) {
    if (term.text !== undefined) vectors.push(await towers.embedText(term.text));
    else if (term.vector) vectors.push(term.vector);
    else vectors.push(matrix.slice(term.row * size, (term.row + 1) * size));
  }
  return combine(vectors, terms.map((term) => term.weight));
}

const methods = {
  /** Load what a text search needs. */
  async load(description) {
    site = description;
    towers = new Towers(site.model, report);
    const vectors = site.is_static
      ? download("data/vectors.bin", report).then(({ buffer }) => {
          matrix = site.vector_type === "float16" ? fromHalves(buffer) : new Float32Array(buffer);
        })
      : null;
    await Promise.all([vectors, site.is_static && towers.embedText("a")]);
  },

  /** Rows of the collection that match best. */
  async search(terms, count, allowed) {
    const query = await queryVector(terms);
    const scores = similarities(matrix, query);
    const rows = topRows(scores, count, allowed);
    return { rows, scores: rows.map((row) => scores[row]) };
  },

  async embedText(text) {
    return towers.embedText(text);
  },

  async tokenize(text) {
    await towers.embedText(text);
    return towers.tokenize(text);
  },

  async embedPicture(picture) {
    return towers.embedPicture(picture, site.prepare);
  },

  /** The probability of each label, for one vector. */
  async classifyVector(labels, vector) {
    const texts = [];
    for (const label of labels) texts.push(await towers.embedText(label));
    const logits = texts.map((text) => site.model.logit_scale * dot(text, vector));
    return softmax(logits);
  },

  /** The best label of every row of the collection, and its probability. */
  async classifyAll(labels) {
    const columns = [];
    for (const label of labels) columns.push(similarities(matrix, await towers.embedText(label)));
    return columns[0].reduce((all, _, row) => {
      const shares = softmax(columns.map((column) => site.model.logit_scale * column[row]));
      const best = shares.indexOf(Math.max(...shares));
      all.push([best, shares[best]]);
      return all;
    }, []);
  },

  async explain(picture, text) {
    const pixels = pixelValues(picture, site.prepare);
    const step = (share) => postMessage({ share });
    return explain(towers, pixels, site.prepare.image_size, text, step);
  },
};

onmessage = async ({ data: { id, method, args } }) => {
  try {
    postMessage({ id, result: await methods[method](...args) });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
};
