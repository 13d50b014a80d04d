// Filters: which pictures may be among the results.

import { byId, element } from "./dom.js";
import { columnName, t } from "./strings.js";

/** Whether a value passes a filter: one of some values, a range, or a text within it. */
export function passes(value, filter) {
  if (value === null || value === undefined) return false;
  if (filter.is !== undefined) return String(value) === filter.is;
  if (filter.contains !== undefined) {
    return String(value).toLowerCase().includes(filter.contains.toLowerCase());
  }
  if (filter.under !== undefined) return value === filter.under || value.startsWith(`${filter.under}/`);
  return (filter.from === undefined || value >= filter.from) && (filter.to === undefined || value <= filter.to);
}

/** The panel of filters, made of the columns that the site describes. */
export class Filters {
  /**
   * @param fields `fields` of site.json
   * @param {() => void} onchange
   */
  constructor(fields, onchange) {
    this.fields = fields;
    this.values = new Map();
    this.onchange = onchange;
    this.panel = byId("filters");
    this.button = byId("show-filters");
    this.button.hidden = fields.length === 0;
    this.button.addEventListener("click", () => {
      this.panel.hidden = !this.panel.hidden;
      this.button.setAttribute("aria-expanded", String(!this.panel.hidden));
      if (!this.panel.hidden) this.panel.querySelector("select, input")?.focus();
    });
  }

  /** The filters that are set. */
  get active() {
    return [...this.values].map(([key, parts]) => ({ name: key, ...parts }));
  }

  set(name, part, value) {
    const parts = { ...this.values.get(name) };
    if (value === undefined || value === "") delete parts[part];
    else parts[part] = value;
    if (Object.keys(parts).length) this.values.set(name, parts);
    else this.values.delete(name);
    this.label();
    this.onchange();
  }

  label() {
    this.button.textContent = this.values.size ? t("filtersActive", this.values.size) : t("filters");
    this.button.classList.toggle("active", this.values.size > 0);
  }

  /** Draw the panel in the current language. */
  draw() {
    this.label();
    const clear = element("button", { type: "button", class: "quiet", onclick: () => {
      this.values.clear();
      this.draw();
      this.onchange();
    } }, t("clearFilters"));
    this.panel.replaceChildren(
      element("legend", { class: "visually-hidden" }, t("filters")),
      ...this.fields.flatMap((field) => this.controls(field)),
      clear,
    );
  }

  controls(field) {
    const label = columnName(field.name), set = this.values.get(field.name) ?? {};
    if (field.kind === "category" || field.kind === "folder") {
      const part = field.kind === "folder" ? "under" : "is";
      const choose = ({ target }) => this.set(field.name, part, target.value || undefined);
      return [labelled(label, element("select", { onchange: choose },
        element("option", { value: "" }, t("any")),
        field.values.map((value) => element("option", { value, selected: set[part] === value }, shown(value)))))];
    }
    if (field.kind === "text") {
      const type = ({ target }) => this.set(field.name, "contains", target.value || undefined);
      return [labelled(t("contains", label), element("input", { type: "text", value: set.contains, onchange: type }))];
    }
    return ["from", "to"].map((part) => {
      const isDate = field.kind === "date";
      // The last day of a range belongs to it, up to its last second.
      const read = ({ target: { value } }) =>
        this.set(field.name, part, value === "" ? undefined : isDate ? dayEdge(value, part) : Number(value));
      const value = isDate ? set[part]?.slice(0, 10) : set[part];
      return labelled(t(part, label), element("input", {
        type: isDate ? "date" : "number", step: "any", value, onchange: read,
        min: isDate ? field.min.slice(0, 10) : field.min, max: isDate ? field.max.slice(0, 10) : field.max,
      }));
    });
  }
}

const dayEdge = (day, part) => `${day}T${part === "from" ? "00:00:00" : "23:59:59.999999"}`;

const shown = (value) => (value === "true" ? t("yes") : value === "false" ? t("no") : value);

const labelled = (text, control) => element("label", {}, element("span", {}, text), control);
