// Sorting the collection, or a picture of the visitor's, under labels that the visitor types.

import { byId, element } from "./dom.js";
import { gallery } from "./search-view.js";
import { getLanguage, t } from "./strings.js";

const MOST_LABELS = 200;
const EXAMPLES = {
  en: ["a person", "an animal", "food", "a plant", "a building", "a vehicle", "a symbol"],
  zh: ["人", "动物", "食物", "植物", "建筑", "交通工具", "符号"],
};

/** The view. `report(text, isProblem)` says how it went. */
export class LabelsView {
  constructor(site, backend, computer, onopen, report) {
    Object.assign(this, { site, backend, computer, onopen, report });
    this.view = byId("labels-view");
    this.typed = null;
    this.rejects = true;
  }

  /** Draw the form in the current language; the labels that were typed stay. */
  draw() {
    const examples = this.site.labels?.length ? this.site.labels : EXAMPLES[getLanguage()];
    this.field = element("textarea", { id: "labels", rows: 7, "aria-describedby": "labels-help", spellcheck: "false" });
    this.field.value = this.typed ?? examples.join("\n");
    this.field.addEventListener("input", () => (this.typed = this.field.value));
    this.box = element("input", { type: "checkbox", id: "rejects", checked: this.rejects });
    this.box.addEventListener("change", () => (this.rejects = this.box.checked));
    this.result = element("div", { id: "sorted" });
    this.view.replaceChildren(
      element("form", { class: "labels", onsubmit: (event) => {
        event.preventDefault();
        this.run();
      } },
        element("label", { for: "labels" }, t("labelsLabel")),
        this.field,
        element("p", { class: "help", id: "labels-help" }, t("labelsHelp")),
        element("label", { for: "rejects", class: "choice" }, this.box, t("rejectsLabel")),
        element("button", { type: "submit", class: "main" }, t("sortNow"))),
      this.result);
  }

  get labels() {
    const lines = this.field.value.split("\n").map((line) => line.trim()).filter(Boolean);
    return [...new Set(lines)];
  }

  check() {
    const problem = this.labels.length < 2 ? t("needsTwo") : this.labels.length > MOST_LABELS ? t("tooManyLabels") : "";
    if (problem) this.report(problem, true);
    return !problem;
  }

  async run() {
    if (!this.check()) return;
    const { labels } = this;
    const groups = await this.backend.sort(labels, this.rejects);
    const order = labels.map((_, i) => i).sort((a, b) => groups[b].count - groups[a].count);
    const sorted = labels.reduce((sum, _, i) => sum + groups[i].count, 0);
    this.result.replaceChildren(...[...order, labels.length].filter((i) => groups[i].count).map((i) => {
      const { count, pictures } = groups[i];
      const isNone = i === labels.length, name = isNone ? t("noneOfThese") : labels[i];
      const query = { name, terms: isNone ? [] : [{ text: name, weight: 1 }] };
      return element("section", { class: isNone ? "group none" : "group" },
        element("h2", {}, name, " ", element("small", {}, t("pictures", count))),
        gallery(pictures, (picture) => this.onopen(picture, pictures, query), ({ share }) => isNone ? null : percent(share)));
    }));
    this.report(t("sorted", sorted, labels.length), false);
  }

  /** The probabilities of the labels for a picture that the visitor brought. */
  async classify({ name, vector, thumbnail }) {
    if (!this.check()) return;
    const { labels } = this;
    const { shares, fits } = await this.computer.call("classifyVector", labels, vector, this.rejects);
    const order = labels.map((_, i) => i).sort((a, b) => shares[b] - shares[a]).slice(0, 12);
    this.result.replaceChildren(element("section", { class: "group one" },
      element("img", { src: thumbnail, alt: name }),
      element("div", {},
        element("h2", {}, t("sortOne", name)),
        fits ? null : element("p", { class: "help none" }, t("noLabelFits")),
        element("ul", { class: "words" }, order.map((i) => {
          const bar = element("span", { class: "bar" });
          bar.style.setProperty("--share", shares[i]);
          return element("li", {}, element("span", { class: "word" }, labels[i]), bar,
            element("span", { class: "score" }, percent(shares[i])));
        })))));
    this.report(fits ? `${labels[order[0]]}: ${percent(shares[order[0]])}` : t("noLabelFits"), false);
  }
}

const percent = (share) => `${Math.round(share * 100)} %`;
