// All computation, off the page's own thread: towers, vectors, explanations.

import { margins } from "./cut.js";
import { explain } from "./explain.js";
import { classMargin, otherTexts } from "./rejection.js";
import { pixelValues } from "./resize.js";
import { Towers, download } from "./towers.js";
import { combine, dot, fromHalves, lengthOf, similarities, softmax, topRows } from "./vectors.js";

let site, towers, matrix, background;

const report = (bytes) => postMessage({ progress: bytes });

/** The vector of a term: of a text, of a row of the collection, or of a picture that was dropped. */
async function vectorOf(term) {
  const size = site.embedding_size;
  if (term.text !== undefined) return towers.embedText(term.text);
  return term.vector ?? matrix.slice(term.row * size, (term.row + 1) * size);
}

/**
 * The vector of a query's terms, of unit length; the sums of the weights of texts and of pictures
 * in it; and the roots of the sums of their squares.
 */
async function embedQuery(terms) {
  const vectors = [];
  for (const term of terms) vectors.push(await vectorOf(term));
  const vector = combine(vectors, terms.map((term) => term.weight));
  const length = lengthOf(vector);
  if (length < 1e-4) throw new Error("nothingLeft");
  const shares = (isText) =>
    terms.filter((term) => (term.text !== undefined) === isText).map((term) => term.weight / length);
  const [texts, pictures] = [shares(true), shares(false)];
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  return {
    vector: vector.map((value) => value / length),
    textWeight: sum(texts),
    pictureWeight: sum(pictures),
    textNorm: lengthOf(texts),
    pictureNorm: lengthOf(pictures),
  };
}

async function embedTexts(texts) {
  const vectors = [];
  for (const text of texts) vectors.push(await towers.embedText(text));
  return vectors;
}

/** The probabilities of labels, from their cosines. */
const sharesOf = (cosines) => softmax(cosines.map((cosine) => site.model.logit_scale * cosine));

/** A function that says whether the best label fits, of a picture's vector and that label's cosine. */
async function judgeOf(labels) {
  background ??= download("data/background.bin").then(({ buffer }) => fromHalves(buffer));
  const others = otherTexts(await background, labels);
  return (vector, best) => classMargin(vector, best, others, labels.length) >= site.min_class_margin;
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

  /** Rows of the collection that match best, whether each fits, and how many do in all. */
  async search(terms, count, allowed) {
    const query = await embedQuery(terms);
    const scores = similarities(matrix, query.vector);
    const rows = topRows(scores, count, allowed);
    const found = { rows, scores: rows.map((row) => scores[row]) };
    if (!site.cut) return found;
    const searched = allowed ? allowed.reduce((sum, each) => sum + each, 0) : scores.length;
    const all = margins(site.cut, query, matrix, searched);
    const fits = (row) => all[row] >= site.cut.min_margin;
    const fitting = all.reduce((sum, _, row) => sum + (fits(row) && (!allowed || allowed[row])), 0);
    return { ...found, margins: rows.map((row) => all[row]), fits: rows.map(fits), fitting };
  },

  async tokenize(text) {
    await towers.embedText(text);
    return towers.tokenize(text);
  },

  async embedPicture(picture) {
    return towers.embedPicture(picture, site.prepare);
  },

  /** The probability of each label for one vector, and whether the best fits, if that is asked. */
  async classifyVector(labels, vector, rejects) {
    const texts = await embedTexts(labels);
    const cosines = texts.map((text) => dot(text, vector));
    const fits = !rejects || (await judgeOf(texts))(vector, Math.max(...cosines));
    return { shares: sharesOf(cosines), fits };
  },

  /**
   * The best label of every row of the collection, and its probability; with `rejects`, one more
   * than the last label where not even the best fits.
   */
  async classifyAll(labels, rejects) {
    const texts = await embedTexts(labels), size = site.embedding_size;
    const columns = texts.map((text) => similarities(matrix, text));
    const fits = rejects ? await judgeOf(texts) : () => true;
    return Array.from(columns[0], (_, row) => {
      const cosines = columns.map((column) => column[row]);
      const shares = sharesOf(cosines);
      const best = shares.indexOf(Math.max(...shares));
      const vector = matrix.subarray(row * size, (row + 1) * size);
      return [fits(vector, cosines[best]) ? best : labels.length, shares[best]];
    });
  },

  async explain(picture, terms) {
    const pixels = pixelValues(picture, site.prepare);
    const step = (share) => postMessage({ share });
    const embedded = [];
    for (const term of terms) embedded.push({ ...term, vector: await vectorOf(term) });
    return explain(towers, pixels, site.prepare.image_size, embedded, step);
  },
};

onmessage = async ({ data: { id, method, args } }) => {
  try {
    postMessage({ id, result: await methods[method](...args) });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
};
