// The page: reads what the site has, and connects the search field, the views and the dialog.

import { Computer, LocalBackend, ServerBackend, readJson } from "./backend.js";
import { byId, debounce, element, icon, ICONS } from "./dom.js";
import { Filters } from "./filters.js";
import { parseQuery } from "./grammar.js";
import { LabelsView } from "./labels-view.js";
import { MapView } from "./map-view.js";
import { PictureDialog } from "./picture-dialog.js";
import { readPixels } from "./pictures.js";
import { showResults, titleOf } from "./search-view.js";
import { getLanguage, setLanguage, t, translatePage } from "./strings.js";

const PAGE = 36;
const MOST_CHARACTERS = 2000;
const THEMES = ["auto", "light", "dark"];

/** The state of the page, and what changes it. */
class Page {
  constructor(site, backend, computer) {
    Object.assign(this, { site, backend, computer });
    this.pictures = []; // of the query, each with a weight
    this.count = PAGE;
    this.turn = 0;
    this.filters = new Filters(site.fields, () => this.search());
    this.dialog = new PictureDialog(site, computer, {
      alike: (picture) => this.setPictures([{ picture, weight: 1 }], ""),
      add: (picture) => this.setPictures([...this.pictures, { picture, weight: 1 }]),
      subtract: (picture) => this.setPictures([...this.pictures, { picture, weight: -1 }]),
    });
    const open = (picture, among, query) => this.dialog.open(picture, among ?? this.found?.hits ?? [], query ?? this.query);
    this.open = open;
    this.labels = new LabelsView(site, backend, computer, open, (text, isProblem) => this.say(text, isProblem));
    this.map = new MapView(site, backend, (picture) => open(picture, [picture]));
    this.typed = debounce(() => this.search(), site.is_static ? 120 : 300);
  }

  get text() {
    return byId("query").value.trim();
  }

  get isReady() {
    return document.documentElement.dataset.state === "ready";
  }

  start() {
    const hash = new URLSearchParams(location.hash.slice(1));
    byId("query").value = hash.get("q") ?? "";
    this.listen();
    this.draw();
    this.show(hash.get("view") ?? "search");
    this.search();
  }

  listen() {
    const query = byId("query");
    query.addEventListener("input", (event) => event.isComposing || this.typed());
    query.addEventListener("compositionend", () => this.typed());
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search();
    });
    byId("pick").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", ({ target }) => {
      if (target.files[0]) this.bring(target.files[0]);
      target.value = "";
    });
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      byId(this.view === "labels" ? "labels" : "query").focus();
    });
    byId("language").addEventListener("click", () => {
      setLanguage(getLanguage() === "en" ? "zh" : "en");
      remember("language", getLanguage());
      this.draw();
      this.search();
    });
    byId("theme").addEventListener("click", () => {
      this.setTheme(THEMES[(THEMES.indexOf(this.theme) + 1) % THEMES.length]);
      remember("theme", this.theme);
    });
    window.addEventListener("popstate", () => this.dialog.close());
    window.addEventListener("hashchange", () => {
      this.dialog.close();
      const hash = new URLSearchParams(location.hash.slice(1));
      this.show(hash.get("view") ?? "search");
      if (hash.has("q") && hash.get("q") !== this.text) {
        query.value = hash.get("q");
        this.search();
      }
    });
    document.addEventListener("paste", ({ clipboardData }) => {
      const file = [...clipboardData.files][0];
      if (file) this.bring(file);
    });
    this.listenToDrops();
  }

  listenToDrops() {
    const cover = byId("drop");
    let depth = 0;
    const isFile = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragenter", (event) => {
      if (isFile(event)) cover.hidden = ++depth === 0;
    });
    document.addEventListener("dragleave", (event) => {
      if (isFile(event)) cover.hidden = --depth <= 0;
    });
    document.addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
    document.addEventListener("drop", (event) => {
      if (!isFile(event)) return;
      event.preventDefault();
      depth = 0;
      cover.hidden = true;
      if (event.dataTransfer.files[0]) this.bring(event.dataTransfer.files[0]);
    });
  }

  /** Everything that is in words, in the current language. */
  draw() {
    translatePage();
    const { site } = this;
    document.title = site.title;
    byId("title").textContent = site.title;
    byId("count").textContent = t("pictures", site.count);
    byId("about").textContent = t(site.is_static ? "aboutStatic" : "aboutServer", site.model.name);
    byId("language").textContent = getLanguage() === "en" ? "中文" : "English";
    byId("language").lang = getLanguage() === "en" ? "zh-CN" : "en";
    const pick = byId("pick");
    pick.replaceChildren(icon(...ICONS.picture));
    pick.title = t("pickPicture");
    pick.setAttribute("aria-label", t("pickPicture"));
    byId("examples").replaceChildren(
      ...(site.examples.length ? [element("span", { class: "try" }, t("examples"))] : []),
      ...site.examples.map((text) => element("button", { type: "button", class: "example", onclick: () => {
        byId("query").value = text;
        this.setPictures([]);
      } }, text)));
    this.setTheme(this.theme ?? recall("theme") ?? "auto");
    this.filters.draw();
    this.drawTerms();
    this.labels.draw();
    if (this.view === "map") this.map.draw();
  }

  setTheme(theme) {
    this.theme = THEMES.includes(theme) ? theme : "auto";
    document.documentElement.dataset.theme = this.theme;
    const name = t({ auto: "themeAuto", light: "themeLight", dark: "themeDark" }[this.theme]);
    const button = byId("theme");
    button.replaceChildren(icon(...ICONS.theme));
    button.title = name;
    button.setAttribute("aria-label", name);
    this.map.paint();
  }

  /** Show a view: `search`, `labels` or `map`. */
  show(view) {
    this.view = ["search", "labels", "map"].includes(view) ? view : "search";
    document.querySelector(".skip").href = this.view === "labels" ? "#labels" : "#query";
    for (const link of document.querySelectorAll("#views a")) {
      if (link.dataset.view === this.view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    byId("ask").hidden = this.view === "labels";
    for (const name of ["search", "labels", "map"]) byId(`${name}-view`).hidden = name !== this.view;
    document.body.dataset.view = this.view;
    this.say(this.view === "labels" ? "" : this.lastStatus ?? "", false);
    if (this.view === "map") this.map.draw().catch((error) => this.say(t("failed", error.message), true));
  }

  /** Change the pictures in the query, and its text if one is given. */
  setPictures(pictures, text) {
    this.pictures = pictures;
    if (text !== undefined) byId("query").value = text;
    this.drawTerms();
    this.search();
  }

  drawTerms() {
    const list = byId("terms");
    list.hidden = !this.pictures.length;
    list.replaceChildren(...this.pictures.map((term, place) => {
      const name = titleOf(term.picture);
      const flip = () => this.setPictures(this.pictures.map((one) => (one === term ? { ...one, weight: -one.weight } : one)));
      const remove = () => this.setPictures(this.pictures.filter((one) => one !== term));
      const isFirst = place === 0 && term.weight > 0;
      return element("li", { class: term.weight < 0 ? "minus" : "" },
        element("button", { type: "button", class: "sign", "aria-label": t("toggleSign", name), onclick: flip },
          term.weight < 0 ? "−" : isFirst ? "" : "+",
          element("img", { src: term.picture.thumbnail, alt: name })),
        element("button", { type: "button", class: "quiet", "aria-label": t("remove", name), onclick: remove }, icon(...ICONS.close)));
    }));
  }

  /** Search with a picture that the visitor brought, or sort it under the labels. */
  async bring(file) {
    await this.attempt(async () => {
      const name = file.name || t("yourPicture");
      const pixels = await readPixels(file, name);
      const vector = await this.backend.embedPicture(pixels, file);
      const picture = { name, caption: "", thumbnail: URL.createObjectURL(file), ...pixels, details: {}, data: null };
      if (this.view === "labels") await this.labels.classify({ name, vector, thumbnail: picture.thumbnail });
      else this.setPictures([...this.pictures, { picture, vector, weight: 1 }]);
    });
  }

  /** What an explanation explains: its name, and the terms that this browser can embed. */
  get query() {
    const terms = this.terms.map(({ text, vector, picture, weight }) => ({ text, vector, row: picture?.key, weight }));
    const names = [this.text, ...this.pictures.map(({ picture }) => titleOf(picture))].filter(Boolean);
    const isLocal = ({ row }) => this.site.is_static || row === undefined;
    return { name: names.join(" · "), terms: terms.filter(isLocal) };
  }

  get terms() {
    return [
      ...parseQuery(this.text),
      ...this.pictures.map(({ picture, vector, weight }) => (vector ? { vector, weight } : { picture, weight })),
    ];
  }

  /** Search for what the field and the filters say. */
  async search(count = PAGE) {
    const turn = ++this.turn;
    const { terms } = this;
    await this.attempt(async () => {
      if (this.text.length > MOST_CHARACTERS) throw new Error(t("longQuery"));
      if (terms.length && terms.every(({ weight }) => weight < 0)) throw new Error("onlyMinus");
      const started = performance.now();
      if (terms.length) await this.ready;
      const found = terms.length
        ? await this.backend.search(terms, count, this.filters.active)
        : await this.backend.browse(count, this.filters.active);
      if (turn !== this.turn) return; // something newer was typed meanwhile
      this.found = found;
      const onmore = found.hits.length < found.total && found.hits.length >= count ? () => this.search(count + 2 * PAGE) : null;
      const status = showResults(found, terms.length > 0, this.open, onmore);
      this.map.light(terms.length ? found.hits : []);
      const milliseconds = Math.round(performance.now() - started);
      this.lastStatus = terms.length ? `${status} · ${milliseconds} ms` : status;
      if (this.view !== "labels") this.say(this.lastStatus, false);
      document.documentElement.dataset.query = this.text;
      document.documentElement.dataset.milliseconds = milliseconds;
      this.remember();
    });
  }

  /** Put the query into the address, so that it can be bookmarked and sent. */
  remember() {
    const hash = new URLSearchParams();
    if (this.text) hash.set("q", this.text);
    if (this.view !== "search") hash.set("view", this.view);
    history.replaceState(null, "", hash.size ? `#${hash}` : location.pathname + location.search);
    for (const link of document.querySelectorAll("#views a")) {
      const target = new URLSearchParams(hash);
      target.set("view", link.dataset.view);
      link.href = `#${target}`;
    }
  }

  /** Run something that may fail, and say so in a sentence if it does. */
  async attempt(run) {
    byId("problem").hidden = true;
    try {
      await run();
    } catch (error) {
      console.debug(error);
      this.say(t(error.message), true);
    }
  }

  say(text, isProblem) {
    byId("problem").hidden = !isProblem;
    byId(isProblem ? "problem" : "status").textContent = text;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Storage may be switched off; the page works without it.
  }
}

function recall(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

async function main() {
  setLanguage(recall("language") ?? getLanguage());
  const site = await readJson("data/site.json");
  const computer = new Computer();
  const backend = site.is_static ? new LocalBackend(site, computer) : new ServerBackend();
  await backend.open();
  const page = new Page(site, backend, computer);
  let loaded = 0;
  computer.onprogress = (bytes) => {
    loaded += bytes;
    const megabytes = (count) => (count / 1e6).toFixed(1);
    const isDone = loaded >= site.load_bytes;
    if (!page.isReady) page.say(isDone ? t("starting") : t("loading", megabytes(loaded), megabytes(site.load_bytes)), false);
  };
  page.ready = computer.call("load", site).then(() => {
    document.documentElement.dataset.state = "ready";
    document.documentElement.dataset.readyAfter = performance.now();
    if (!page.text) page.say(page.lastStatus ?? "", false);
  });
  page.ready.catch((error) => page.say(t("failed", error.message), true));
  page.start();
}

main().catch((error) => {
  translatePage();
  byId("problem").hidden = false;
  byId("problem").textContent = t("failed", error.message);
});
