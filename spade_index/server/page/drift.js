// Drift: whether the images judged last are like those of the calibration, in words and as a small chart.

import { ask, galleryPath } from "./service.js";
import { number, page } from "./shown.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [300, 90]; // of a chart
const KINDS = {
  score: (images, share) => `The last ${images} images score higher than ${share} % of good parts on average.`,
  brightness: (images, share) => `The last ${images} images are brighter than ${share} % of good parts on average.`,
};

let watched = null; // the gallery on display

export const driftIsOpen = () => !page.drifted.hidden;

export async function openDrift(gallery) {
  watched = gallery;
  page.queries.hidden = true;
  page.drifted.hidden = false;
  page.driftTitle.textContent = `Drift of ${gallery}`;
  page.driftWords.textContent = "The images judged last are being compared with the calibration.";
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

function showDrift({ images, calibrated, score, brightness }) {
  page.driftWords.textContent =
    !calibrated ? `There is nothing to compare with: run “spade-index calibrate” on ${watched}.`
    : !images ? "No image was judged since the service was started."
    : "Images like those of the calibration score higher than 50 % of them on average, and spread evenly over the chart." +
      (brightness ? "" : " The brightness of the gallery's images is not known.");
  const found = Object.entries({ score, brightness }).filter(([, of]) => of);
  page.charts.replaceChildren(...found.map(([kind, of]) => newChart(kind, images, of)));
}

function newChart(kind, images, { mean_rank: mean, warns, p_value: chance, bins }) {
  const entry = page.chart.content.cloneNode(true).firstElementChild;
  entry.querySelector("h3").textContent = { score: "Score", brightness: "Brightness" }[kind];
  const words = KINDS[kind](number(images, 9), number(100 * mean, 3));
  entry.querySelector(".words").textContent = `${words} 50 % is expected.`;
  const verdict = entry.querySelector(".verdict");
  verdict.textContent = warns ? "Drift" : "No drift";
  verdict.dataset.state = warns ? "anomalous" : "normal";
  entry.querySelector(".chance").textContent = warns
    ? "That is more than chance: look for a change of the light, the camera, the material, or for more defects."
    : `Chance alone is as far off in ${number(100 * chance, 2)} % of all cases.`;
  const chart = entry.querySelector("svg");
  chart.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  chart.setAttribute("aria-label", `Images by tenths of good parts that are lower: ${bins.join(", ")}`);
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
