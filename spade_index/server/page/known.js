// The regions of the image on display: their outlines, and the known defect that each is most like.

import { number, text } from "./language.js";
import { moveCursor, page, pictureAt } from "./shown.js";

const TOLD = 12; // regions whose known defects are shown, those with the highest scores
export const LISTED = 10; // regions that become known defects: the service takes no more
const NO_KIND = text("regions.noKind");

export function showRegions(item) {
  const result = item?.result;
  const regions = result?.regions ?? [];
  page.outlines.hidden = !result?.regions;
  page.regionCount.textContent = text(regions.length ? "regions.some" : "regions.none", { count: regions.length });
  page.outlined.disabled = !regions.length;
  outline(regions, result);
  const told = [...regions.entries()].slice(0, TOLD).filter(([, { known_defect: known }]) => known);
  page.known.hidden = !told.length;
  page.alikes.replaceChildren(...told.map(([place, region]) => newEntry(region, place + 1)));
  showLabels(item);
  showOutlined();
}

// Labels the regions of which a known defect is told, and all that are listed to be named.
export function showLabels(item) {
  const listed = page.each.open && !page.each.hidden ? LISTED : 0;
  const labelled = [...(item?.result?.regions ?? []).entries()].filter(([place, { known_defect: known }]) =>
    place < (known ? TOLD : listed));
  page.labels.replaceChildren(...labelled.map(([place, region]) => newLabel(region, place + 1, item.result)));
}

// Moves the cursor to a region, and the picture into sight.
export function lookAt({ box: [x, y, width, height] }) {
  moveCursor([x + width / 2, y + height / 2]);
  page.query.scrollIntoView({ block: "nearest" });
}

// Outlines regions: white lines on dark ones, visible on any image.
function outline(regions, result) {
  if (regions.length) page.regions.setAttribute("viewBox", `0 0 ${result.width} ${result.height}`);
  page.regions.replaceChildren(...["edge", "line"].flatMap((kind) => regions.map(({ polygon }) => {
    const outline = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
    outline.setAttribute("points", polygon.join(" "));
    outline.classList.add(kind);
    return outline;
  })));
}

// A label at a region: its number, and the kind of the known defect that it is like.
function newLabel({ box: [x, y], known_defect: known }, place, { width, height }) {
  const label = document.createElement("span");
  label.textContent = known?.alike ? `${place} ${known.kind || NO_KIND}` : `${place}`;
  label.style.left = `${(100 * x) / width}%`;
  label.style.top = `max(0.9rem, ${(100 * y) / height}%)`; // inside of the picture
  return label;
}

function newEntry(region, place) {
  const { known_defect: known } = region;
  const entry = page.alike.content.cloneNode(true).firstElementChild;
  const nearest = known.alike ? "alike" : "unlike";
  entry.querySelector("button").textContent = text("regions.region", { place });
  entry.querySelector("button").onclick = () => lookAt(region);
  entry.querySelector(".name").textContent =
    text(known.kind ? `regions.${nearest}` : `regions.kindless.${nearest}`, { kind: known.kind, count: known.seen });
  entry.querySelector(".distance").textContent =
    text("regions.distance", { distance: number(known.distance, 2), limit: number(known.limit, 2) });
  const picture = entry.querySelector("img");
  picture.alt = text("regions.knownDefect", { kind: known.kind || NO_KIND });
  pictureAt(known.picture.replace(/^\/v1/, "")).then((url) => (picture.src = url), () => {});
  return entry;
}

function showOutlined() {
  page.regions.toggleAttribute("hidden", !page.outlined.checked);
  page.labels.hidden = !page.outlined.checked;
}

page.outlined.onchange = showOutlined;
