// One picture, large: what is known about it, what to do with it, and why it was found.

import { byId, element, icon, ICONS } from "./dom.js";
import { readPixelsFrom } from "./pictures.js";
import { visiblePart } from "./resize.js";
import { titleOf } from "./search-view.js";
import { columnName, t } from "./strings.js";

/** The dialog. `actions` has `alike`, `add` and `subtract`, each called with the picture. */
export class PictureDialog {
  constructor(site, computer, actions) {
    Object.assign(this, { site, computer, actions });
    this.dialog = byId("picture");
    this.dialog.addEventListener("click", ({ target }) => target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.move(-1);
      if (event.key === "ArrowRight") this.move(1);
    });
  }

  /**
   * @param picture of the collection
   * @param pictures those that it is one of, to go back and forth
   * @param {{name: string, terms: object[]}} query that is explained; without terms, none
   */
  open(picture, pictures, query) {
    Object.assign(this, { picture, pictures, query });
    this.draw();
    if (!this.dialog.open) this.dialog.showModal();
  }

  close() {
    this.dialog.close();
  }

  move(step) {
    const place = this.pictures.findIndex(({ key }) => key === this.picture.key);
    const next = this.pictures[place + step];
    if (next) this.open(next, this.pictures, this.query);
  }

  draw() {
    const { picture } = this;
    const close = () => this.dialog.close();
    const act = (name) => () => {
      close();
      this.actions[name](picture);
    };
    const button = (name, shape) =>
      element("button", { type: "button", class: "quiet", onclick: act(name) }, icon(...shape), t(name));
    this.heat = element("canvas", { class: "heat", hidden: true });
    this.image = element("img", { src: picture.original ?? picture.thumbnail, alt: titleOf(picture) });
    this.reason = element("div", { class: "reason" });
    const why = element("button", { type: "button", class: "main", id: "why", onclick: () => this.explain(why) }, t("why"));
    this.dialog.setAttribute("aria-label", titleOf(picture));
    this.dialog.replaceChildren(element("div", { class: "sheet" },
      element("div", { class: "stage" }, element("div", { class: "frame" }, this.image, this.heat)),
      element("div", { class: "facts" },
        element("button", { type: "button", class: "quiet round close", "aria-label": t("close"), onclick: close }, icon(...ICONS.close)),
        element("h2", {}, titleOf(picture)),
        this.facts(),
        element("div", { class: "actions" }, button("alike", ICONS.alike), button("add", ICONS.plus), button("subtract", ICONS.minus)),
        this.query.terms.length ? why : element("p", { class: "help" }, t("whyNeedsText")),
        this.reason)));
  }

  facts() {
    const { picture } = this;
    const facts = [];
    if (picture.score !== undefined) {
      const fits = picture.fits === null ? "" : ` · ${t(picture.fits ? "fits" : "doesNotFit")}`;
      facts.push([t("similarity"), `${picture.score.toFixed(3)}${fits}`]);
    }
    if (picture.caption) facts.push([t("name"), picture.name]);
    if (picture.width) facts.push([t("size"), `${picture.width} × ${picture.height}`]);
    for (const [name, value] of Object.entries(picture.details)) facts.push([columnName(name), shown(value)]);
    return element("dl", {}, facts.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  }

  async explain(button) {
    const { picture, query } = this;
    button.disabled = true;
    const status = element("p", { class: "help", role: "status" }, t("working", 0));
    this.reason.replaceChildren(status);
    this.computer.onshare = (share) => (status.textContent = t("working", share));
    try {
      const pixels = await readPixelsFrom(picture.thumbnail, picture.name);
      const result = await this.computer.call("explain", pixels, query.terms);
      if (picture !== this.picture) return;
      drawHeat(this.heat, result, pixels, visiblePart(pixels.width, pixels.height, this.site.prepare));
      this.reason.replaceChildren(...reasons(result, query.name));
      this.reason.dataset.done = "";
    } catch (error) {
      status.textContent = t("failed", error.message);
      button.disabled = false;
    }
  }
}

/** A value of a column as people read it. */
function shown(value) {
  if (typeof value === "boolean") return t(value ? "yes" : "no");
  if (typeof value === "string") return value.replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*/, "$1 $2");
  return typeof value === "number" ? String(Number(value.toFixed(4))) : String(value);
}

/** What the words did, as bars to the right for more of a match and to the left for less. */
function reasons({ words }, name) {
  const nodes = [element("h3", {}, t("whyFor", name)), element("p", { class: "help" }, t("whyHelp"))];
  const most = Math.max(...words.map(({ value }) => Math.abs(value)), 1e-6);
  if (words.length > 1) {
    nodes.push(element("ul", { class: "words" }, words.map(({ word, value }) => {
      const bar = element("span", { class: value < 0 ? "bar less" : "bar" });
      bar.style.setProperty("--share", Math.abs(value) / most);
      return element("li", {}, element("span", { class: "word" }, word), bar,
        element("span", { class: "score" }, signed(value)));
    })));
  }
  return nodes;
}

/** A number with its sign, unless it rounds to zero. */
function signed(value) {
  const digits = Math.abs(value).toFixed(2);
  return Number(digits) === 0 ? digits : `${value < 0 ? "−" : "+"}${digits}`;
}

const DARK = [20, 16, 14];
/** How dark it is where nothing of the match is lost, of 255. */
const DARKEST = 215;

/**
 * Darken what does not matter, and what the model did not see.
 *
 * @param {HTMLCanvasElement} canvas that covers the picture
 * @param {{parts: number[], cells: number}} explanation what each cell adds to the match
 * @param {{width: number, height: number}} picture
 * @param part the part of the picture that the model saw, as shares of its sides
 */
function drawHeat(canvas, { parts, cells }, picture, part) {
  const small = document.createElement("canvas");
  small.width = small.height = cells;
  const context = small.getContext("2d");
  const image = context.createImageData(cells, cells);
  const most = Math.max(...parts, 1e-6);
  parts.forEach((value, i) => {
    const share = Math.max(0, value) / most;
    image.data.set([...DARK, Math.round(DARKEST * (1 - share) ** 1.5)], i * 4);
  });
  context.putImageData(image, 0, 0);
  const scale = 512 / Math.max(picture.width, picture.height);
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const large = canvas.getContext("2d");
  large.imageSmoothingQuality = "high";
  large.fillStyle = `rgb(${DARK.join(" ")} / ${DARKEST / 255})`;
  large.fillRect(0, 0, canvas.width, canvas.height);
  const box = [part.left * canvas.width, part.top * canvas.height, part.width * canvas.width, part.height * canvas.height];
  large.clearRect(...box);
  large.drawImage(small, ...box);
  canvas.hidden = false;
}
