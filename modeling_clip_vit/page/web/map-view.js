// A map of the collection: each picture at its place in the plane of the two main directions in
// which the collection's embeddings differ.

import { byId, element, icon, ICONS } from "./dom.js";
import { titleOf } from "./search-view.js";
import { t } from "./strings.js";

const MOST_ZOOM = 40;
const STEP = 60;
const MARGIN = 32;
/** Pictures that are lit where nothing fits. */
const MOST_CLOSEST = 12;

/** The view, of what `mapPoints` of the backend returns: points, and sheets of small pictures. */
export class MapView {
  constructor(site, backend, onopen) {
    Object.assign(this, { site, backend, onopen });
    this.view = byId("map-view");
    this.zoom = 1;
    this.center = [0.5, 0.5];
    this.lit = null;
    this.pointers = new Map();
  }

  /** Draw the view in the current language, and load the map the first time. */
  async draw() {
    if (!this.map) this.view.replaceChildren(element("p", { class: "help" }, t("drawingMap")));
    await (this.loading ??= this.load());
    this.canvas = element("canvas", { tabindex: 0, role: "application", "aria-label": t("mapLabel") });
    this.hint = element("p", { class: "hint", hidden: true });
    const { length } = this.points;
    const some = length < this.site.count ? ` ${t("mapSome", length, this.site.count)}` : "";
    const zoomButton = (name, shape, factor) =>
      element("button", { type: "button", class: "quiet round", "aria-label": t(name), onclick: () => this.zoomBy(factor) }, icon(...shape));
    this.view.replaceChildren(
      element("div", { class: "map" }, this.canvas, this.hint,
        element("div", { class: "zoom" }, zoomButton("zoomIn", ICONS.plus, 1.6), zoomButton("zoomOut", ICONS.minus, 1 / 1.6))),
      element("p", { class: "help" }, t("mapHelp"), some));
    this.listen();
    this.paint();
  }

  async load() {
    this.map = await this.backend.mapPoints();
    this.sheets = await Promise.all(this.map.sheets.map(loadImage));
  }

  get points() {
    return this.map.points;
  }

  /** Light up the hits that fit; if none does, the closest, without a frame. Without hits, all look alike. */
  light(hits) {
    const fitting = hits.filter(({ fits }) => fits !== false);
    this.areFitting = fitting.length > 0;
    this.lit = hits.length ? new Set((this.areFitting ? fitting : hits.slice(0, MOST_CLOSEST)).map(({ key }) => key)) : null;
    this.paint();
  }

  listen() {
    const { canvas } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), at(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, at(event));
      this.travelled = 0;
    });
    canvas.addEventListener("pointermove", (event) => this.drag(event.pointerId, at(event)));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        const isClick = name === "pointerup" && this.pointers.size === 1 && this.travelled < 6;
        this.pointers.delete(event.pointerId);
        const point = isClick && this.nearest(at(event));
        if (point) this.onopen(point);
      });
    }
    canvas.addEventListener("pointerleave", () => (this.hint.hidden = true));
    canvas.addEventListener("keydown", (event) => this.press(event));
    this.observer?.disconnect();
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(canvas);
  }

  press(event) {
    const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    if (moves[event.key]) this.moveBy(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
    else if (event.key === "-") this.zoomBy(1 / 1.4);
    else if (event.key === "Enter") {
      const { width, height } = this.canvas.getBoundingClientRect();
      const point = this.nearest([width / 2, height / 2], Infinity);
      if (point) this.onopen(point);
    } else return;
    event.preventDefault();
  }

  drag(id, place) {
    const last = this.pointers.get(id);
    if (!last) return this.point(place);
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([each]) => each !== id).map(([, each]) => each);
      const apart = ([x, y]) => Math.hypot(x - other[0], y - other[1]) || 1;
      this.zoomBy(apart(place) / apart(last), [(place[0] + other[0]) / 2, (place[1] + other[1]) / 2]);
    } else {
      this.moveBy(place[0] - last[0], place[1] - last[1]);
    }
    this.travelled += Math.hypot(place[0] - last[0], place[1] - last[1]);
    this.pointers.set(id, place);
  }

  /** Name the picture under the pointer. */
  point(place) {
    const point = this.nearest(place);
    this.hint.hidden = !point;
    this.canvas.style.cursor = point ? "pointer" : "grab";
    if (!point) return;
    this.hint.textContent = titleOf(point);
    this.hint.style.transform = `translate(${place[0] + 14}px, ${place[1] + 14}px)`;
  }

  moveBy(x, y) {
    this.center = [
      clamp(this.center[0] - x / (this.extent[0] * this.zoom), 0, 1),
      clamp(this.center[1] - y / (this.extent[1] * this.zoom), 0, 1),
    ];
    this.paint();
  }

  /** Zoom, so that what is at `place` stays there; in the middle if it is left out. */
  zoomBy(factor, place) {
    const { width, height } = this.canvas.getBoundingClientRect();
    const [x, y] = place ?? [width / 2, height / 2];
    const zoom = clamp(this.zoom * factor, 0.8, MOST_ZOOM);
    const shift = 1 / this.zoom - 1 / zoom;
    this.center = [
      clamp(this.center[0] + ((x - width / 2) * shift) / this.extent[0], 0, 1),
      clamp(this.center[1] + ((y - height / 2) * shift) / this.extent[1], 0, 1),
    ];
    this.zoom = zoom;
    this.paint();
  }

  /** Width and height of the plane in pixels before zooming: it fills the canvas but for a margin. */
  get extent() {
    const { width, height } = this.canvas.getBoundingClientRect();
    return [Math.max(60, width - 2 * MARGIN), Math.max(60, height - 2 * MARGIN)];
  }

  /** Where a point is on the canvas. */
  project({ x, y }) {
    const { width, height } = this.canvas.getBoundingClientRect();
    return [
      width / 2 + (x - this.center[0]) * this.extent[0] * this.zoom,
      height / 2 + (y - this.center[1]) * this.extent[1] * this.zoom,
    ];
  }

  /** The side of a small picture on the canvas. */
  get side() {
    const room = Math.sqrt((this.extent[0] * this.extent[1]) / this.points.length);
    return clamp(room * 0.85 * Math.sqrt(this.zoom) * Math.min(this.zoom, 3) ** 0.4, 5, 84);
  }

  nearest([x, y], reach = this.side * 0.75) {
    let best = null, least = reach;
    for (const point of this.points) {
      if (this.lit?.size && reach !== Infinity && !this.lit.has(point.key)) continue;
      const [px, py] = this.project(point);
      const distance = Math.hypot(px - x, py - y);
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  paint() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paintNow());
  }

  paintNow() {
    if (!this.canvas || this.view.hidden) return;
    const { canvas } = this, { width, height } = canvas.getBoundingClientRect();
    const density = devicePixelRatio;
    if (canvas.width !== Math.round(width * density)) canvas.width = Math.round(width * density);
    if (canvas.height !== Math.round(height * density)) canvas.height = Math.round(height * density);
    const context = canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    const { side } = this;
    // What is lit comes last, and so on top.
    const order = this.lit ? [...this.points].sort((a, b) => this.lit.has(a.key) - this.lit.has(b.key)) : this.points;
    for (const point of order) {
      const [x, y] = this.project(point);
      if (x < -side || y < -side || x > width + side || y > height + side) continue;
      const isLit = this.lit?.has(point.key);
      context.globalAlpha = this.lit && !isLit ? 0.16 : 1;
      this.paintPoint(context, point, x, y, isLit ? Math.max(side * 1.5, 22) : side, isLit && this.areFitting);
    }
    context.globalAlpha = 1;
    canvas.dataset.painted = order.length;
    canvas.dataset.lit = this.lit?.size ?? "all";
  }

  paintPoint(context, { place }, x, y, side, isFramed) {
    const { tile, columns, per_sheet } = this.map;
    const inSheet = place % per_sheet;
    const sheet = this.sheets[Math.floor(place / per_sheet)];
    const left = x - side / 2, top = y - side / 2;
    if (isFramed) {
      context.fillStyle = getComputedStyle(this.canvas).color;
      context.fillRect(left - 2, top - 2, side + 4, side + 4);
    }
    context.drawImage(sheet, (inSheet % columns) * tile, Math.floor(inSheet / columns) * tile, tile, tile, left, top, side, side);
  }
}

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

async function loadImage(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}
