// The page: the galleries, the images that were given, and one of these with its verdict, heat map and evidence.

import { ask, askKey, fetchPicture, hasKey, Problem } from "./service.js";

const AT_ONCE = 4; // queries under way: the service computes together what arrives together
const STEPS = 56; // of the cursor across an image; finest levels are about as fine
const VERDICTS = {
  waiting: "Waiting", running: "Running", failed: "Not judged", cancelled: "Cancelled",
  anomalous: "Anomalous", normal: "Normal", unknown: "No threshold",
};

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const number = (value, digits = 4) => value.toLocaleString("en", { maximumSignificantDigits: digits });
const galleryPath = (name) => `/galleries/${encodeURIComponent(name)}`;

let galleries = [];
let largest = Infinity; // bytes of an image file
let items = []; // the images that were given, in order
let shown = null; // the one of them that is looked at
let matching = false;
const thumbnails = new Map(); // normal images' pictures, promised, by their paths

// ---- galleries

async function loadGalleries() {
  try {
    const { limits } = await (await ask("")).json();
    largest = limits.body_bytes;
    ({ galleries } = await (await ask("/galleries")).json());
    page.gallery.replaceChildren(...galleries.map(({ name }) => new Option(name)));
    notice(galleries.length ? "" : "There is no gallery yet. Build one with “spade-index build IMAGES ROOT/NAME”, then load this page again.");
    pickGallery();
  } catch (error) {
    notice(error.message);
  }
  page.changeKey.hidden = !hasKey();
}

// Picks the gallery that the address names (#gallery=NAME), or the first one.
function pickGallery() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("gallery");
  page.gallery.value = wanted ?? galleries[0]?.name ?? "";
  if (wanted !== null && !page.gallery.value) notice(`There is no gallery “${wanted}” here. Pick one from the list.`);
  showGallery();
}

function showGallery() {
  const gallery = galleries.find(({ name }) => name === page.gallery.value);
  page.facts.textContent = !gallery ? "" : gallery.error ?? [
    `${number(gallery.images, 9)} images`, `snapshot ${gallery.snapshot}`, gallery.backbone,
    ...(gallery.calibrated ? [] : ["no threshold yet"]),
  ].join(" · ");
}

function notice(words) {
  page.notice.textContent = words;
  page.notice.hidden = !words;
}

// ---- the images that were given

function takeImages(files) {
  if (!page.gallery.value) return notice("Pick a gallery first, then give the images again.");
  if (!files.length) return notice("That was not a file. Save the image first, then drop it here.");
  notice("");
  const fresh = [...files].map((file) => ({ file, url: URL.createObjectURL(file), gallery: page.gallery.value, state: "waiting" }));
  for (const item of fresh) page.list.append((item.row = newRow(item)));
  items.push(...fresh);
  show(fresh[0]);
  runQueries();
}

function newRow(item) {
  const row = page.row.content.cloneNode(true).firstElementChild;
  row.querySelector("input").onchange = () => show(item);
  const picture = row.querySelector("img");
  picture.onerror = () => picture.removeAttribute("src"); // of a kind that only the service can read
  picture.src = item.url;
  row.querySelector(".name").textContent = item.file.name;
  return row;
}

function runQueries() {
  let free = AT_ONCE - items.filter(({ state }) => state === "running").length;
  for (const item of items) if (item.state === "waiting" && free-- > 0) query(item).finally(runQueries);
  showProgress();
}

async function query(item) {
  item.abort = new AbortController();
  const { signal } = item.abort;
  update(item, { state: "running", words: "Looking for what is most like it in the normal images.", since: Date.now() });
  try {
    const options = new URLSearchParams({ maps: "always", name: item.file.name });
    const response = await ask(`${galleryPath(item.gallery)}/query?${options}`, {
      method: "POST",
      body: await bytesOf(item.file),
      headers: { "Content-Type": "application/octet-stream" },
      signal,
      onBusy: (seconds, why) => update(item, { words: `${why} It is asked again after ${seconds} s.` }),
    });
    const { results: [result] } = await response.json();
    const verdict = { true: "anomalous", false: "normal", null: "unknown" }[result.anomalous];
    update(item, { state: verdict, result, place: result.evidence?.pixel, words: "" });
  } catch (error) {
    if (signal.aborted) update(item, { state: "cancelled", words: "It was not compared with anything." });
    else update(item, { state: "failed", words: error.message });
  }
}

async function bytesOf(file) {
  if (file.size > largest) throw new Problem(`It has ${number(file.size / 2 ** 20, 3)} MiB; the service takes ${number(largest / 2 ** 20, 3)}. Use a smaller image.`);
  try {
    return await file.arrayBuffer();
  } catch {
    throw new Problem("It cannot be read: a folder, or it has changed since. Give the image files themselves.");
  }
}

function queryAgain(item) {
  forget(item);
  update(item, { state: "waiting", gallery: page.gallery.value, result: null, words: "" });
  runQueries();
}

function cancel(item) {
  if (item.state === "running") item.abort.abort();
  else update(item, { state: "cancelled", words: "" });
}

function clear() {
  for (const item of items) {
    item.abort?.abort();
    URL.revokeObjectURL(item.url);
    forget(item);
  }
  for (const picture of thumbnails.values()) picture.then(URL.revokeObjectURL, () => {});
  thumbnails.clear();
  page.list.replaceChildren();
  items = [];
  shown = null;
  page.shown.hidden = true;
  document.title = "spade_index";
  showProgress();
  page.files.focus();
}

function forget(item) {
  item.heat?.then(URL.revokeObjectURL, () => {});
  item.heat = null;
}

function update(item, changes) {
  Object.assign(item, changes);
  const verdict = item.row.querySelector(".verdict");
  verdict.textContent = VERDICTS[item.state];
  verdict.dataset.state = item.state;
  item.row.querySelector(".score").textContent = item.result ? number(item.result.score) : "";
  showProgress();
  if (item === shown) show(item);
}

function showProgress() {
  const judged = items.filter(({ result }) => result).length;
  const anomalous = items.filter(({ state }) => state === "anomalous").length;
  page.given.hidden = !items.length;
  page.progress.textContent = `${judged} of ${items.length} judged${anomalous ? `, ${anomalous} anomalous` : ""}`;
}

// ---- the one that is looked at

function show(item) {
  const { result } = (shown = item);
  item.row.querySelector("input").checked = true;
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

function showVerdict({ file, gallery, state, result, words }) {
  const underWay = state === "waiting" || state === "running";
  document.title = `${VERDICTS[state]}: ${file.name}`;
  page.name.textContent = file.name;
  page.verdict.textContent = VERDICTS[state];
  page.verdict.dataset.state = state;
  page.score.textContent = result ? `score ${number(result.score)}` : "";
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

function explain({ kind, score, threshold, scores, snapshot }, gallery) {
  const verdict = threshold
    ? `${number((100 * score) / threshold, 3)} % of the threshold of ${number(threshold)}`
    : `For a verdict run “spade-index calibrate” on ${gallery}`;
  const parts = Object.entries(scores).map(([name, value]) => name !== kind && `${name} ${number(value)}`).filter(Boolean);
  return [verdict, ...parts, `${gallery}, snapshot ${snapshot}`].join(" · ");
}

async function showImage(item) {
  if (item.broken && item.result?.score_map) { // a kind of image that only the service can read
    item.broken = false;
    item.url = await fetchPicture(`/results/${item.result.score_map.id}/overlay.png?opacity=0`).catch(() => item.url);
    item.row.querySelector("img").src = item.url;
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
  try {
    const url = await item.heat;
    if (item === shown) page.heat.src = url;
  } catch (error) {
    item.heat = null;
    if (item === shown) page.match.textContent = error.message;
  }
}

function showOpacity() {
  page.heat.style.opacity = page.opacity.value / 100;
  page.opacityShown.textContent = `${page.opacity.value} %`;
}

function showNearest({ result, gallery }) {
  page.neighbours.replaceChildren(...result.neighbours.map(({ id, distance }) => {
    const entry = page.near.content.cloneNode(true).firstElementChild;
    entry.querySelector(".name").textContent = id;
    entry.querySelector(".distance").textContent = `distance ${number(distance)}`;
    thumbnail(gallery, id).then((url) => (entry.querySelector("img").src = url), () => {});
    return entry;
  }));
}

function thumbnail(gallery, id) {
  const path = `${galleryPath(gallery)}/thumbnail?${new URLSearchParams({ id })}`;
  if (!thumbnails.has(path)) thumbnails.set(path, fetchPicture(path));
  thumbnails.get(path).catch(() => thumbnails.delete(path));
  return thumbnails.get(path);
}

// ---- a place, and what it was matched with

// Puts the cursor at a pixel (x, y) of the original, moved inside where it lies outside.
function moveCursor(pixel) {
  const { width, height } = shown.result;
  const [x, y] = [width, height].map((edge, axis) => Math.min(Math.max(Math.floor(pixel[axis]), 0), edge - 1));
  shown.place = [x, y];
  setMark(page.query, x, y, width, height);
  page.place.textContent = `at (${x}, ${y})`;
  findMatches();
}

// Asks for the cursor's match, one request at a time: of the places that it passed meanwhile only the last is asked for.
async function findMatches() {
  if (matching) return;
  matching = true;
  for (let item = null, place = null; shown?.place && shown.result?.score_map && (item !== shown || place !== shown.place); ) {
    ({ place } = item = shown);
    await showMatch(item, place);
  }
  matching = false;
}

async function showMatch(item, [x, y]) {
  let found, url;
  try {
    found = await (await ask(`/results/${item.result.score_map.id}/match?x=${x}&y=${y}`)).json();
    url = await thumbnail(item.gallery, found.neighbour);
  } catch (error) {
    if (item !== shown) return;
    page.matchedName.textContent = page.matchedPlace.textContent = "";
    page.match.textContent = {
      404: "The service keeps results for a while only, and has let this one go. Query again to look at more places.",
      422: "The backbone does not see this place: it is cropped away.",
    }[error.status] ?? error.message;
    page.neighbour.hidden = true;
    return;
  }
  if (item !== shown) return;
  const [there, size] = [found.neighbour_pixel, found.neighbour_size];
  page.neighbour.hidden = false;
  page.matched.src = url;
  page.matched.alt = `Normal image ${found.neighbour}`;
  setRatio(page.neighbour, ...size);
  setMark(page.neighbour, ...there, ...size);
  page.matchedPlace.textContent = `at (${there.join(", ")})`;
  page.matchedName.textContent = found.neighbour;
  page.match.textContent = `distance ${number(found.distance)}, score ${number(found.score)} here`;
}

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
  if (!shown?.result?.score_map || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Home") moveCursor(shown.result.evidence.pixel);
  const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
  if (right === undefined && event.key !== "Home") return;
  event.preventDefault();
  if (right === undefined) return;
  const { width, height } = shown.result;
  const step = Math.max(1, Math.round(Math.max(width, height) / STEPS)) * (event.shiftKey ? 5 : 1);
  moveCursor([shown.place[0] + right * step, shown.place[1] + down * step]);
}

// ---- what the reader does

page.gallery.onchange = () => {
  history.replaceState(null, "", `#${new URLSearchParams({ gallery: page.gallery.value })}`);
  notice("");
  showGallery();
};
addEventListener("hashchange", pickGallery);
page.changeKey.onclick = () => askKey("Another key replaces the one in use.").then(loadGalleries, () => {});

page.files.onchange = () => {
  if (page.files.files.length) takeImages(page.files.files);
  page.files.value = ""; // the same file may be chosen again
};
addEventListener("paste", ({ clipboardData }) => clipboardData.files.length && takeImages(clipboardData.files));
addEventListener("dragover", (event) => {
  event.preventDefault();
  page.drop.classList.add("over");
});
addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || page.drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  page.drop.classList.remove("over");
  takeImages(event.dataTransfer.files);
});

page.clear.onclick = clear;
page.cancel.onclick = () => cancel(shown);
page.again.onclick = () => queryAgain(shown);
page.opacity.oninput = showOpacity;
page.worst.onclick = () => moveCursor(shown.result.evidence.pixel);
page.query.onclick = pointAt;
page.query.onpointermove = (event) => event.pointerType === "mouse" && event.buttons & 1 && pointAt(event);
page.query.onkeydown = moveByKey;
setInterval(() => {
  if (shown?.state === "running") page.elapsed.textContent = `${Math.round((Date.now() - shown.since) / 1000)} s`;
}, 500);

showOpacity();
loadGalleries();
