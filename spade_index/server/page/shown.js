// The image on display: its verdict, its heat map, and the match of each of its places.

import { locale, number, text } from "./language.js";
import { ask, fetchPicture, galleryPath } from "./service.js";

const STEPS = 56; // of the cursor across an image: about as many as the finest level has pixels
const HEATS = 20; // heat maps in memory,
const PICTURES = 200; // and pictures of normal images and known defects
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const NO_MATCH = { 404: text("shown.matchGone"), 422: text("shown.matchCropped") };

export const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));

export let shown = null; // { file, url, gallery, state, words, since, result, place, heat, row }
const heated = new Set(); // images whose heat maps are in memory
let matching = false;
const pictures = new Map(); // of normal images and known defects, promised, by their paths

export function show(item) {
  const { result } = item;
  if (item !== shown) showNoMatch("");
  if (shown) shown.isShown = false;
  shown = item;
  item.isShown = true;
  page.shown.hidden = false;
  showVerdict(item);
  showImage(item);
  page.heat.hidden = page.controls.hidden = page.cursor.hidden = page.evidence.hidden = !result?.score_map;
  page.nearest.hidden = !result;
  page.pair.hidden = item.state === "failed";
  if (result?.score_map) {
    showHeat(item);
    moveCursor(item.place);
  }
  if (result) showNearest(item);
}

// Looks at nothing, and lets go of the pictures of normal images and known defects.
export function hide() {
  for (const picture of pictures.values()) picture.then(URL.revokeObjectURL, () => {});
  pictures.clear();
  heated.clear();
  shown = null;
  page.shown.hidden = true;
  document.title = "spade_index";
}

function showVerdict({ file, gallery, state, result, words }) {
  const underWay = state === "waiting" || state === "running";
  document.title = `${text(`verdict.${state}`)}: ${file.name}`;
  page.name.textContent = file.name;
  page.verdict.textContent = text(`verdict.${state}`);
  page.verdict.dataset.state = state;
  page.score.textContent = result ? text("shown.score", { score: number(result.score) }) : "";
  page.explained.textContent = result ? explain(result, gallery) : words;
  page.explained.classList.toggle("quiet", state !== "failed");
  page.elapsed.textContent = "";
  page.cancel.hidden = !underWay;
  page.again.hidden = underWay;
  page.scale.hidden = !result?.threshold;
  if (result?.threshold) {
    const whole = 1.15 * Math.max(result.score, result.threshold);
    page.bar.style.width = `${(100 * result.score) / whole}%`;
    page.bar.dataset.state = state;
    page.threshold.style.left = `max(1.7rem, ${(100 * result.threshold) / whole}%)`;
  }
}

export function worse(share) {
  const digits = share > 0.01 ? 0 : 1;
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return (100 * (1 - share)).toLocaleString(locale, options);
}

function explain({ kind, score, threshold, scores, snapshot, p_value: share }, gallery) {
  const verdict =
    share !== null && share !== undefined ? text("shown.worse", { percent: worse(share) })
    : threshold === null ? text("shown.uncalibrated", { gallery })
    : threshold > 0 ? text("shown.ofThreshold", { percent: number((100 * score) / threshold, 3), threshold: number(threshold) })
    : text("shown.thresholdIs", { threshold });
  const others = Object.keys(scores).filter((name) => name !== kind).map((name) => `${name} ${number(scores[name])}`);
  return [verdict, ...others, text("shown.source", { gallery, snapshot: `${snapshot}` })].join(" · ");
}

async function showImage(item) {
  if (item.broken && item.result?.score_map) {
    // A kind of image that only the service can read.
    item.broken = false;
    item.url = await fetchPicture(`/results/${item.result.score_map.id}/overlay.png?opacity=0`).catch(() => item.url);
    if (item.row) item.row.querySelector("img").src = item.url;
    if (item !== shown) return;
  }
  if (item.result) setRatio(page.query, item.result.width, item.result.height);
  if (page.image.src === item.url) return;
  page.image.onload = () => setRatio(page.query, page.image.naturalWidth, page.image.naturalHeight);
  page.image.onerror = () => {
    item.broken = true;
    showImage(item);
  };
  page.image.src = item.url;
}

async function showHeat(item) {
  const { id, limits } = item.result.score_map;
  [page.low.textContent, page.high.textContent] = limits.map((limit) => number(limit, 3));
  page.heat.removeAttribute("src");
  item.heat ??= fetchPicture(`/results/${id}/heat.png`);
  keepHeat(item);
  try {
    const url = await item.heat;
    if (item === shown) page.heat.src = url;
  } catch (error) {
    item.heat = null;
    if (item === shown) page.match.textContent = error.message;
  }
}

// Keeps the heat maps that were looked at last.
function keepHeat(item) {
  heated.delete(item);
  heated.add(item);
  if (heated.size <= HEATS) return;
  const [oldest] = heated;
  heated.delete(oldest);
  oldest.heat?.then(URL.revokeObjectURL, () => {});
  oldest.heat = null;
}

function showOpacity() {
  page.heat.style.opacity = page.opacity.value / 100;
  page.opacityShown.textContent = text("shown.opacity", { percent: page.opacity.value });
}

function showNearest({ result, gallery }) {
  page.neighbours.replaceChildren(...result.neighbours.map(({ id, distance }) => {
    const entry = page.near.content.cloneNode(true).firstElementChild;
    entry.querySelector(".name").textContent = id;
    entry.querySelector(".distance").textContent = text("shown.distance", { distance: number(distance) });
    thumbnail(gallery, id).then((url) => (entry.querySelector("img").src = url), () => {});
    return entry;
  }));
}

function thumbnail(gallery, id) {
  return pictureAt(`${galleryPath(gallery)}/thumbnail?${new URLSearchParams({ id })}`);
}

export function pictureAt(path) {
  if (!pictures.has(path)) pictures.set(path, fetchPicture(path));
  if (pictures.size > PICTURES) {
    const [[oldest, picture]] = pictures;
    pictures.delete(oldest);
    picture.then(URL.revokeObjectURL, () => {});
  }
  pictures.get(path).catch(() => pictures.delete(path));
  return pictures.get(path);
}

// Puts the cursor at a pixel (x, y) of the original, moved inside where it lies outside.
export function moveCursor(pixel) {
  const { width, height } = shown.result;
  const [x, y] = [width, height].map((edge, axis) => Math.min(Math.max(Math.floor(pixel[axis]), 0), edge - 1));
  shown.place = [x, y];
  setMark(page.query, x, y, width, height);
  page.place.textContent = at([x, y]);
  findMatches();
}

// Asks for the cursor's match, one request at a time: of places that it passed meanwhile, only for the last.
async function findMatches() {
  if (matching) return;
  matching = true;
  for (let asked = null; shown?.result?.score_map && shown.place !== asked; ) {
    asked = shown.place; // another array after each move
    await showMatch(shown, asked);
  }
  matching = false;
}

async function showMatch(item, [x, y]) {
  let found, url;
  try {
    found = await (await ask(`/results/${item.result.score_map.id}/match?x=${x}&y=${y}`)).json();
    url = await thumbnail(item.gallery, found.neighbour);
  } catch (error) {
    const outside = error.message.includes("region of interest");
    if (item === shown) showNoMatch(outside ? text("shown.matchOutside") : NO_MATCH[error.status] ?? error.message);
    return;
  }
  if (item !== shown) return;
  const there = found.neighbour_pixel;
  const [left, top, ...size] = found.neighbour_box;
  page.neighbour.hidden = false;
  page.matched.src = url;
  page.matched.alt = text("shown.normalImage", { name: found.neighbour });
  setRatio(page.neighbour, ...size);
  setMark(page.neighbour, there[0] - left, there[1] - top, ...size);
  page.matchedPlace.textContent = at(there);
  page.matchedName.textContent = found.neighbour;
  page.match.textContent = text("shown.match", { distance: number(found.distance), score: number(found.score) });
}

function showNoMatch(words) {
  page.neighbour.hidden = true;
  page.matchedName.textContent = page.matchedPlace.textContent = "";
  page.match.textContent = words;
}

// Pixels are written as the service writes them: without separators.
const at = ([x, y]) => text("shown.place", { x: `${x}`, y: `${y}` });

function setRatio(picture, width, height) {
  picture.style.setProperty("--ratio", width / height);
}

function setMark(picture, x, y, width, height) {
  const mark = picture.querySelector(".mark");
  mark.style.left = `${(100 * (x + 0.5)) / width}%`;
  mark.style.top = `${(100 * (y + 0.5)) / height}%`;
}

function pointAt(event) {
  if (!shown?.result?.score_map) return;
  const box = page.query.getBoundingClientRect();
  const { width, height } = shown.result;
  moveCursor([((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height]);
}

function moveByKey(event) {
  const arrow = ARROWS[event.key];
  if (!shown?.result?.score_map || event.ctrlKey || event.altKey || event.metaKey) return;
  if (!arrow && event.key !== "Home") return;
  event.preventDefault(); // no scrolling
  if (!arrow) return toWorst();
  const { width, height } = shown.result;
  const step = Math.max(1, Math.round(Math.max(width, height) / STEPS)) * (event.shiftKey ? 5 : 1);
  moveCursor(shown.place.map((edge, axis) => edge + arrow[axis] * step));
}

function toWorst() {
  moveCursor(shown.result.evidence.pixel);
}

page.opacity.oninput = showOpacity;
page.worst.onclick = toWorst;
page.query.onclick = pointAt;
page.query.onpointermove = (event) => event.pointerType === "mouse" && event.buttons & 1 && pointAt(event);
page.query.onkeydown = moveByKey;
setInterval(() => {
  if (shown?.state === "running") page.elapsed.textContent = text("shown.elapsed", { seconds: Math.round((Date.now() - shown.since) / 1000) });
}, 500);
showOpacity();
