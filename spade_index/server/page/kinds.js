// What the operator says of single regions of the image on display: a kind of its own, or that it is no defect.

import { LISTED, lookAt, showLabels } from "./known.js";
import { text } from "./language.js";
import { page, shown } from "./shown.js";

const rows = new WeakMap(); // those of a result's regions; their controls hold what is said

// Shows the regions of an image that has several; without an image, none.
export function showEach(item) {
  const regions = item?.result?.regions ?? [];
  page.each.hidden = regions.length < 2;
  if (!page.each.hidden) {
    const { result } = item;
    if (!rows.has(result)) rows.set(result, regions.slice(0, LISTED).map((region, place) => newRow(region, place + 1)));
    if (page.eachRows.firstChild !== rows.get(result)[0]) page.eachRows.replaceChildren(...rows.get(result));
    page.eachMore.textContent =
      regions.length > LISTED ? text("each.more", { count: regions.length, listed: LISTED }) : "";
    showUsed();
  }
  showLabels(shown);
}

// Forgets what was said of the regions of a result.
export function forgetEach(result) {
  rows.delete(result);
}

// Returns the boxes to send with a defect, each with its own kind if it has one; none where no region is an exception.
export function boxesOf({ result }) {
  const said = saidOf(result);
  if (!said.some(isException)) return [];
  return said.filter(({ isDefect }) => isDefect).map(({ box, kind }) => box.join(",") + (kind ? `:${kind}` : ""));
}

// Returns why a defect cannot be sent yet, and the field that mends it; null where it can. `kind` is for all regions.
export function faultOf({ result }, kind) {
  const said = saidOf(result);
  const defects = said.filter(({ isDefect }) => isDefect);
  if (said.length && !defects.length) return { why: text("each.none"), field: said[0].ticked };
  const kindless = defects.find((one) => !one.kind);
  if (kind || (said.length && !kindless)) return null;
  if (!said.some(isException)) return { why: text("feedback.nameKind"), field: page.kind };
  return { why: text("each.nameKind", { place: said.indexOf(kindless) + 1 }), field: kindless.named };
}

const isException = ({ kind, isDefect }) => kind || !isDefect;

function saidOf(result) {
  return (rows.get(result) ?? []).map((row, place) => {
    const [named, ticked] = row.querySelectorAll("input");
    const isDefect = ticked.checked;
    return { box: result.regions[place].box, kind: isDefect ? named.value.trim() : "", isDefect, named, ticked };
  });
}

function newRow(region, place) {
  const row = page.eachRow.content.cloneNode(true).firstElementChild;
  const [named, ticked] = row.querySelectorAll("input");
  row.querySelector("button").textContent = text("regions.region", { place });
  row.querySelector("button").onclick = () => lookAt(region);
  named.setAttribute("aria-label", text("each.kindOf", { place }));
  ticked.setAttribute("aria-label", text("each.isDefect", { place }));
  ticked.onchange = () => (named.disabled = !ticked.checked);
  return row;
}

// Tells beside the title, which is there also while the rows are not, what is sent of single regions.
function showUsed() {
  const said = saidOf(shown.result);
  const own = said.filter(({ kind }) => kind).length;
  const out = said.filter(({ isDefect }) => !isDefect).length;
  page.eachUsed.textContent = own + out ? text("each.used", { own, out }) : "";
}

page.eachRows.oninput = showUsed;
page.each.ontoggle = () => showLabels(shown);
