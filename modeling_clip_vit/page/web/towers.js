// The exported towers, run by onnxruntime-web; and the tokenizer in front of the text tower.

import * as ort from "./vendor/onnxruntime/ort.wasm.min.mjs";
import { Tokenizer } from "./vendor/tokenizers/tokenizers.min.mjs";
import { pixelValues } from "./resize.js";
import { normalize } from "./vectors.js";

const here = (path) => new URL(path, import.meta.url).href;
/** Pictures that go through the image tower at once. */
const BATCH = 8;

/** A file's bytes. `report(bytes)` is called for every piece that arrives. */
export async function download(path, report = () => {}) {
  const response = await fetch(here(path));
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  const parts = [];
  const reader = response.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    parts.push(piece.value);
    report(piece.value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** The content of a gzip file; servers that unpack it on the way have done it already. */
async function gunzip(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Both towers of a model; each is loaded when it is first needed. */
export class Towers {
  /**
   * @param model `model` of site.json
   * @param {(bytes: number) => void} report is called for every piece that arrives
   */
  constructor(model, report = () => {}) {
    this.model = model;
    this.report = report;
    this.sessions = {};
    this.texts = new Map();
  }

  async session(name) {
    this.runtime ??= this.startRuntime();
    this.sessions[name] ??= this.startSession(name);
    return this.sessions[name];
  }

  async startRuntime() {
    const packed = await download("vendor/onnxruntime/ort-wasm-simd-threaded.wasm.gz", this.report);
    ort.env.wasm.wasmBinary = (await gunzip(packed)).buffer;
    ort.env.wasm.wasmPaths = { mjs: here("vendor/onnxruntime/ort-wasm-simd-threaded.mjs") };
    ort.env.wasm.numThreads = 1;
    ort.env.logLevel = "error";
  }

  async startSession(name) {
    const [graph, ...weights] = this.model.files[name];
    const [bytes, externalData] = await Promise.all([
      download(`model/${graph}`, this.report),
      Promise.all(
        weights.map(async (path) => ({ path, data: await download(`model/${path}`, this.report) })),
      ),
      this.runtime,
    ]);
    return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], externalData });
  }

  async loadTokenizer() {
    const read = async (name) => JSON.parse(new TextDecoder().decode(await download(`model/${name}`)));
    const content = await read("tokenizer.json");
    this.padding = content.padding ?? {};
    const config = await read("tokenizer_config.json");
    const framing = new Tokenizer(content, config);
    const whole = framing.encode("a").ids;
    const body = framing.encode("a", { add_special_tokens: false }).ids;
    const start = Math.max(0, whole.findIndex((_, i) => body.every((id, j) => whole[i + j] === id)));
    // Where special tokens only mark start and end, a text that spells one out is just text.
    this.tokenizer = this.model.splits_special_tokens
      ? new Tokenizer({ ...content, added_tokens: [] }, config)
      : framing;
    this.frame = { start: whole.slice(0, start), end: whole.slice(start + body.length) };
  }

  /** Token ids and mask of a text, cut to the model's length, as its Python tokenizer makes them. */
  tokenize(text) {
    const { start, end } = this.frame, most = this.model.max_text_length;
    const body = this.tokenizer.encode(text, { add_special_tokens: false }).ids;
    const ids = [...start, ...body.slice(0, most - start.length - end.length), ...end];
    const mask = ids.map(() => 1);
    const missing = this.model.text_inputs.includes("attention_mask") ? 0 : most - ids.length;
    const pad = Array(missing).fill(this.padding.pad_id ?? 0);
    return this.padding.direction === "Left"
      ? { ids: [...pad, ...ids], mask: [...pad.map(() => 0), ...mask] }
      : { ids: [...ids, ...pad], mask: [...mask, ...pad.map(() => 0)] };
  }

  /** The embedding of a text, of unit length. */
  async embedText(text) {
    if (!this.texts.has(text)) {
      const session = await this.session("text");
      await (this.tokenizerReady ??= this.loadTokenizer());
      const { ids, mask } = this.tokenize(text);
      const tensor = (values) => new ort.Tensor("int64", values.map(BigInt), [1, values.length]);
      const all = { input_ids: tensor(ids), attention_mask: tensor(mask) };
      const inputs = Object.fromEntries(this.model.text_inputs.map((name) => [name, all[name]]));
      const { text_embeds } = await session.run(inputs);
      this.texts.set(text, normalize(Float32Array.from(text_embeds.data)));
    }
    return this.texts.get(text);
  }

  /** The embedding of a picture, RGBA as a canvas has it. */
  async embedPicture(picture, prepare) {
    const [vector] = await this.embedPixels([pixelValues(picture, prepare)], prepare.image_size);
    return vector;
  }

  /** The embeddings of prepared pictures. `step(done)` is called with how many there are so far. */
  async embedPixels(batch, size, step = () => {}) {
    const session = await this.session("image");
    const vectors = [];
    for (let from = 0; from < batch.length; from += BATCH) {
      const part = batch.slice(from, from + BATCH);
      const values = new Float32Array(part.length * 3 * size * size);
      part.forEach((pixels, i) => values.set(pixels, i * pixels.length));
      const tensor = new ort.Tensor("float32", values, [part.length, 3, size, size]);
      const { image_embeds } = await session.run({ pixel_values: tensor });
      const width = image_embeds.dims[1];
      for (let i = 0; i < part.length; i++) {
        vectors.push(normalize(Float32Array.from(image_embeds.data.slice(i * width, (i + 1) * width))));
      }
      step(vectors.length);
    }
    return vectors;
  }
}
