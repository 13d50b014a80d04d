// Results: rows of pictures, with those that fit above those that do not.

import { byId, element } from "./dom.js";
import { t } from "./strings.js";

/** Up to this many fitting pictures are shown larger. */
const FEW = 3;

/** What to call a picture: its caption, or else its name. */
export const titleOf = (picture) => picture.caption || picture.name;

/** A picture as a button with its caption and score. */
export function card(picture, onopen, note = null) {
  const ratio = Math.min(2.4, Math.max(0.5, picture.width / picture.height || 1));
  const image = element("img", { src: picture.thumbnail, alt: "", loading: "lazy", decoding: "async" });
  const button = element("button", { type: "button", class: "card", onclick: () => onopen(picture) },
    image,
    element("span", { class: "caption" },
      element("span", { class: "title" }, titleOf(picture)),
      note === null ? null : element("span", { class: "score" }, note)));
  const item = element("li", {}, button);
  item.style.setProperty("--ratio", ratio);
  return item;
}

const scoreOf = ({ score }) =>
  score === undefined ? null
  : element("span", {}, element("span", { class: "visually-hidden" }, `${t("similarity")} `), score.toFixed(2));

/** A list of pictures in rows. */
export function gallery(pictures, onopen, note = scoreOf) {
  return element("ul", { class: "gallery" }, pictures.map((one) => card(one, onopen, note(one))));
}

/**
 * Show what a search found.
 *
 * @param found `{hits, total, has_cut, fitting}` of a backend
 * @param {boolean} isQuery whether it answers a query, or only shows some of the collection
 * @param {(picture) => void} onopen
 * @param {(() => void) | null} onmore shows more; null if there are none
 */
export function showResults(found, isQuery, onopen, onmore) {
  const view = byId("search-view");
  const fitting = found.hits.filter((hit) => hit.fits !== false);
  const others = found.hits.filter((hit) => hit.fits === false);
  const nodes = [];
  if (!found.total) nodes.push(element("p", { class: "empty" }, t("nothingAllowed")));
  else if (found.has_cut && !fitting.length) {
    nodes.push(element("p", { class: "empty" }, t("nothingFits")));
  }
  if (fitting.length) {
    const list = gallery(fitting, onopen);
    list.classList.toggle("few", found.has_cut && fitting.length <= FEW);
    nodes.push(list);
  }
  if (others.length) {
    nodes.push(element("h2", { class: "cut" }, element("span", {}, t(fitting.length ? "belowCut" : "closest"))));
    const rest = gallery(others, onopen);
    rest.classList.add("dim");
    nodes.push(rest);
  }
  if (onmore) {
    nodes.push(element("button", { type: "button", class: "more", onclick: onmore }, t("more")));
  }
  view.replaceChildren(...nodes);
  return !isQuery ? `${t("browsing")} · ${t("pictures", found.total)}`
    : found.has_cut ? t("fitting", found.fitting ?? fitting.length, found.total)
    : t("found", found.hits.length, found.total);
}
