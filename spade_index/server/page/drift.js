// Drift: whether the images judged last are like those of the calibration, in words and as a small chart.

import { number, text } from "./language.js";
import { ask, galleryPath } from "./service.js";
import { page } from "./shown.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [300, 90]; // of a chart

let watched = null; // the gallery on display

export const driftIsOpen = () => !page.drifted.hidden;

export async function openDrift(gallery) {
  watched = gallery;
  page.queries.hidden = true;
  page.drifted.hidden = false;
  page.driftTitle.textContent = text("drift.title", { gallery });
  page.driftWords.textContent = text("drift.comparing");
  page.charts.replaceChildren();
  try {
    const found = await (await ask(`${galleryPath(gallery)}/drift`)).json();
    if (gallery === watched) showDrift(found);
  } catch (error) {
    if (gallery === watched) page.driftWords.textContent = error.message;
  }
}

export function closeDrift() {
  watched = null;
  page.charts.replaceChildren();
  page.drifted.hidden = true;
  page.queries.hidden = false;
}

function showDrift({ images, least, calibrated, score, brightness }) {
  page.driftWords.textContent =
    !calibrated ? text("drift.uncalibrated", { gallery: watched })
    : !images ? text("drift.noImages")
    : `${text("drift.expected")} ${brightness ? "" : text("drift.noBrightness")}`;
  const found = Object.entries({ score, brightness }).filter(([, of]) => of);
  page.charts.replaceChildren(...found.map(([kind, of]) => newChart(kind, images, least, of)));
}

function newChart(kind, images, least, { mean_rank: mean, warns, p_value: chance, bins }) {
  const entry = page.chart.content.cloneNode(true).firstElementChild;
  entry.querySelector("h3").textContent = text(`drift.${kind}`);
  entry.querySelector(".words").textContent =
    text(`drift.words.${kind}`, { count: images, percent: number(100 * mean, 3) });
  const verdict = entry.querySelector(".verdict");
  const state = images < least ? "few" : warns ? "warns" : "calm";
  verdict.textContent = text(`drift.${state}`);
  verdict.dataset.state = { few: "unknown", warns: "anomalous", calm: "normal" }[state];
  entry.querySelector(".chance").textContent = {
    few: text("drift.fromLeast", { least }),
    warns: text("drift.moreThanChance"),
    calm: text("drift.chance", { percent: number(100 * chance, 2) }),
  }[state];
  const chart = entry.querySelector("svg");
  chart.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  chart.setAttribute("aria-label", text("drift.chart", { counts: bins.join(", ") }));
  const highest = Math.max(...bins, images / 5);
  bins.forEach((count, place) => {
    const height = (HEIGHT * count) / highest;
    chart.append(newBox({ x: (WIDTH * place) / 10 + 1, y: HEIGHT - height, width: WIDTH / 10 - 2, height, class: "count" }));
  });
  const expected = HEIGHT - (HEIGHT * images) / 10 / highest;
  chart.append(newBox({ x: 0, y: expected - 1, width: WIDTH, height: 2, class: "expected" }));
  return entry;
}

function newBox(attributes) {
  const box = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries(attributes)) box.setAttribute(name, value);
  return box;
}
