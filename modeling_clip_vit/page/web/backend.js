// Who answers: this browser, from files of vectors; or the server of the page.

import { passes } from "./filters.js";

/** Functions of worker.js, called from the page's thread. */
export class Computer {
  constructor() {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.last = 0;
    this.onprogress = () => {};
    this.onshare = () => {};
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message ?? "worker"));
    };
  }

  receive({ id, result, error, progress, share }) {
    if (progress !== undefined) return this.onprogress(progress);
    if (share !== undefined) return this.onshare(share);
    const { resolve, reject } = this.waiting.get(id);
    this.waiting.delete(id);
    return error === undefined ? resolve(result) : reject(new Error(error));
  }

  /** The result of a method of worker.js. */
  call(method, ...args) {
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, method, args });
    });
  }
}

/** A static site: pictures.json and vectors.bin, searched in this browser. */
export class LocalBackend {
  constructor(site, computer) {
    this.site = site;
    this.computer = computer;
    this.count = site.count;
  }

  /** Read what the page shows before the model is there. */
  async open() {
    this.columns = await readJson("data/pictures.json");
  }

  /** The pictures on the map, each with its place and its tile. */
  async mapPoints() {
    const { rows, x, y } = this.columns.map;
    const points = rows.map((row, place) => ({ ...this.picture(row), place, x: x[place], y: y[place] }));
    return { points, ...this.site.map };
  }

  /** What is known about a picture of the collection. */
  picture(row) {
    const { columns } = this;
    const details = {};
    for (const { name } of this.site.fields) {
      if (columns.fields[name][row] !== null) details[name] = columns.fields[name][row];
    }
    return {
      key: row,
      name: columns.name[row],
      caption: columns.caption[row],
      width: columns.width[row],
      height: columns.height[row],
      thumbnail: `data/thumbnails/${Math.floor(row / 1000)}/${row}.webp`,
      original: null,
      details,
    };
  }

  /** Pictures from all over the collection, as many as `count`. */
  async browse(count, filters) {
    const allowed = this.allowedRows(filters);
    const rows = [];
    for (let row = 0; row < this.count; row++) if (!allowed || allowed[row]) rows.push(row);
    const step = Math.max(1, rows.length / count);
    const chosen = Array.from({ length: Math.min(count, rows.length) }, (_, i) => rows[Math.floor(i * step)]);
    return { hits: chosen.map((row) => this.picture(row)), total: rows.length, has_cut: false };
  }

  /** The pictures that match a query's terms best. */
  async search(terms, count, filters) {
    const allowed = this.allowedRows(filters);
    const plain = terms.map(({ text, picture, vector, weight }) => ({ text, row: picture?.key, vector, weight }));
    const found = await this.computer.call("search", plain, count, allowed);
    const hits = found.rows.map((row, place) => ({
      ...this.picture(row),
      score: found.scores[place],
      fits: found.fits?.[place] ?? null,
    }));
    const total = allowed ? allowed.reduce((sum, each) => sum + each, 0) : this.count;
    return { hits, total, has_cut: Boolean(found.fits), fitting: found.fitting };
  }

  allowedRows(filters) {
    if (!filters.length) return null;
    const allowed = new Uint8Array(this.count).fill(1);
    for (const filter of filters) {
      const values = this.columns.fields[filter.name];
      for (let row = 0; row < this.count; row++) if (!passes(values[row], filter)) allowed[row] = 0;
    }
    return allowed;
  }

  /** The vector of a picture that the visitor brought, RGBA as a canvas has it. */
  embedPicture(pixels) {
    return this.computer.call("embedPicture", pixels);
  }

  /**
   * Every picture under the label that fits best, the surest first: one group for each label, and
   * a last one for pictures that none fits, which is empty unless `rejects`.
   */
  async sort(labels, rejects) {
    const best = await this.computer.call("classifyAll", labels, rejects);
    const groups = Array.from({ length: labels.length + 1 }, () => []);
    best.forEach(([label, share], row) => groups[label].push({ row, share }));
    for (const group of groups) group.sort((a, b) => b.share - a.share);
    return groups.map((group) => ({
      count: group.length,
      pictures: group.slice(0, 12).map(({ row, share }) => ({ ...this.picture(row), share })),
    }));
  }
}

/** The server of the page, which searches an index of any size. */
export class ServerBackend {
  async open() {}

  async mapPoints() {
    return readJson("data/map.json");
  }

  async browse(count, filters) {
    return ask("search", { terms: [], count, filters });
  }

  async search(terms, count, filters) {
    const plain = terms.map(({ text, picture, vector, weight }) => ({
      text, id: picture?.key, vector: vector && [...vector], weight,
    }));
    return ask("search", { terms: plain, count, filters });
  }

  async embedPicture(_, file) {
    const { vector } = await answerOf(await fetch("embed", { method: "POST", body: file }));
    return Float32Array.from(vector);
  }

  async sort(labels, rejects) {
    return (await ask("classify", { labels, rejects })).groups;
  }
}

/** The answer of the server to a question in JSON. */
async function ask(address, question) {
  const headers = { "Content-Type": "application/json" };
  return answerOf(await fetch(address, { method: "POST", headers, body: JSON.stringify(question) }));
}

/** The content of an answer; an error's sentence becomes an error. */
async function answerOf(response) {
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.error ?? `${response.status} ${response.statusText}`);
  return content;
}

/** The content of a JSON file of the site. */
export async function readJson(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status} ${response.statusText}`);
  return response.json();
}
