// The regions of the image on display: their outlines, and the known defect that each is most like.

import { moveCursor, number, page, pictureAt } from "./shown.js";

const TOLD = 12; // regions whose known defects are shown, those with the highest scores
const NO_KIND = "no kind";

export function showRegions(item) {
  const result = item?.result;
  const regions = result?.regions ?? [];
  page.outlines.hidden = !result?.regions;
  page.regionCount.textContent = regions.length === 1 ? "1 region" : `${regions.length || "No"} regions`;
  page.outlined.disabled = !regions.length;
  outline(regions, result);
  const told = regions.slice(0, TOLD).filter(({ known_defect: known }) => known);
  page.known.hidden = !told.length;
  page.labels.replaceChildren(...told.map((region, place) => newLabel(region, place + 1, result)));
  page.alikes.replaceChildren(...told.map((region, place) => newEntry(region, place + 1)));
  showOutlined();
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
function newLabel({ box: [x, y], known_defect: { alike, kind } }, place, { width, height }) {
  const label = document.createElement("span");
  label.textContent = alike ? `${place} ${kind || NO_KIND}` : `${place}`;
  label.style.left = `${(100 * x) / width}%`;
  label.style.top = `max(0.9rem, ${(100 * y) / height}%)`; // inside of the picture
  return label;
}

function newEntry({ box: [x, y, width, height], known_defect: known }, place) {
  const entry = page.alike.content.cloneNode(true).firstElementChild;
  const named = known.kind ? `“${known.kind}”` : "a defect of no kind";
  const seen = known.seen === 1 ? "seen once" : `seen ${number(known.seen, 9)} times`;
  entry.querySelector("button").textContent = `Region ${place}`;
  entry.querySelector("button").onclick = () => moveCursor([x + width / 2, y + height / 2]);
  entry.querySelector(".name").textContent =
    known.alike ? `most like: ${named}, ${seen}` : `none of the known defects; the nearest is ${named}, ${seen}`;
  entry.querySelector(".distance").textContent =
    `distance ${number(known.distance, 2)} of at most ${number(known.limit, 2)}`;
  const picture = entry.querySelector("img");
  picture.alt = `Known defect: ${known.kind || NO_KIND}`;
  pictureAt(known.picture.replace(/^\/v1/, "")).then((url) => (picture.src = url), () => {});
  return entry;
}

function showOutlined() {
  page.regions.toggleAttribute("hidden", !page.outlined.checked);
  page.labels.hidden = !page.outlined.checked;
}

page.outlined.onchange = showOutlined;
