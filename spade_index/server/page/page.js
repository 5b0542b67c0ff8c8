// The page: pick a gallery, give images, see their verdicts, pick one to look at.

import { auditIsOpen, closeAudit, openAudit } from "./audit.js";
import { closeDrift, driftIsOpen, openDrift } from "./drift.js";
import { forgetRights, showFeedback } from "./feedback.js";
import { closeHistory, historyIsOpen, openHistory } from "./history.js";
import { showRegions } from "./known.js";
import { number, text } from "./language.js";
import { addItems, beside, clearItems, items, pickBy, reveal, showRow } from "./list.js";
import { ask, askKey, galleryPath, hasKey, Problem } from "./service.js";
import { hide, page, show, shown } from "./shown.js";

const AT_ONCE = 4; // queries under way: the service computes together what arrives together
const WAITING = { state: "waiting", words: text("query.waiting") };
const CANCELLED = text("query.cancelled");

let galleries = [];
let largest = Infinity; // bytes of an image file

async function loadGalleries() {
  forgetRights();
  try {
    const { limits } = await (await ask("")).json();
    largest = limits.body_bytes;
    ({ galleries } = await (await ask("/galleries")).json());
    page.gallery.replaceChildren(...galleries.map(({ name }) => new Option(name, name)));
    pickGallery();
  } catch (error) {
    notice(error.message);
  }
  page.changeKey.hidden = !hasKey();
}

// Picks the gallery that the address names (#gallery=NAME), or the first one.
function pickGallery() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("gallery") ?? galleries[0]?.name ?? "";
  page.gallery.value = wanted;
  if (!galleries.length) notice(text("notice.noGalleries"));
  else notice(page.gallery.value ? "" : text("notice.noSuchGallery", { name: wanted }));
  showGallery();
}

function showGallery() {
  const gallery = galleries.find(({ name }) => name === page.gallery.value);
  page.facts.textContent = !gallery ? "" : gallery.error ?? [
    text("facts.images", { count: gallery.images }), text("facts.snapshot", { number: `${gallery.snapshot}` }),
    gallery.backbone,
    ...(gallery.region_of_interest ? [text("facts.region")] : []),
    ...(gallery.calibrated ? [] : [text("facts.uncalibrated")]),
  ].join(" · ");
}

function notice(words) {
  page.notice.textContent = words;
  page.notice.hidden = !words;
}

// Shows the audit, the history or the drift of the gallery, or none of them.
function showView(view) {
  closeAudit();
  closeHistory();
  closeDrift();
  if (view === "audit" && page.gallery.value) openAudit(page.gallery.value);
  if (view === "history" && page.gallery.value) openHistory(page.gallery.value);
  if (view === "drift" && page.gallery.value) openDrift(page.gallery.value);
  page.audit.setAttribute("aria-pressed", auditIsOpen());
  page.drift.setAttribute("aria-pressed", driftIsOpen());
  page.history.setAttribute("aria-pressed", historyIsOpen());
}

function takeImages(files) {
  showView("queries");
  if (!page.gallery.value) return notice(text("notice.pickFirst"));
  if (!files.length) return notice(text("notice.noFile"));
  notice("");
  const gallery = page.gallery.value;
  const fresh = [...files].map((file) => ({ file, gallery, url: URL.createObjectURL(file), ...WAITING }));
  page.given.hidden = false;
  addItems(fresh);
  pick(fresh[0]);
  runQueries();
}

// Shows an image, and takes the keys to its row.
function pick(item) {
  look(item);
  reveal(item, true);
}

function runQueries() {
  let free = AT_ONCE - items.filter(({ state }) => state === "running").length;
  for (const item of items) if (item.state === "waiting" && free-- > 0) query(item).finally(runQueries);
  showProgress();
}

async function query(item) {
  item.abort = new AbortController();
  const { signal } = item.abort;
  update(item, { state: "running", words: text("query.running"), since: Date.now() });
  try {
    const options = new URLSearchParams({ maps: "always", name: item.file.name });
    const response = await ask(`${galleryPath(item.gallery)}/query?${options}`, {
      method: "POST",
      body: await bytesOf(item.file),
      headers: { "Content-Type": "application/octet-stream" },
      signal,
      onBusy: (seconds, why) => update(item, { words: text("query.askedAgain", { why, seconds }) }),
    });
    const { results: [result] } = await response.json();
    const verdict = { true: "anomalous", false: "normal", null: "unknown" }[result.anomalous];
    update(item, { state: verdict, result, place: result.evidence?.pixel, words: "" });
  } catch (error) {
    if (signal.aborted) update(item, { state: "cancelled", words: CANCELLED });
    else update(item, { state: "failed", words: error.message });
  }
}

async function bytesOf(file) {
  if (file.size > largest) {
    const [size, most] = [file.size, largest].map((bytes) => number(bytes / 2 ** 20, 3));
    throw new Problem(text("query.tooLarge", { size, most }));
  }
  try {
    return await file.arrayBuffer();
  } catch {
    throw new Problem(text("query.unreadable"));
  }
}

function queryAgain(item) {
  forget(item);
  update(item, { gallery: page.gallery.value, result: null, said: "", preview: null, ...WAITING });
  runQueries();
}

function cancel(item) {
  if (item.state === "running") item.abort.abort();
  else update(item, { state: "cancelled", words: CANCELLED });
}

function clear() {
  for (const item of items) {
    item.abort?.abort();
    URL.revokeObjectURL(item.url);
    forget(item);
  }
  clearItems();
  hide();
  showProgress();
  page.files.focus();
}

function forget(item) {
  item.heat?.then(URL.revokeObjectURL, () => {});
  item.heat = null;
}

function update(item, changes) {
  Object.assign(item, changes);
  showRow(item);
  showProgress();
  if (item === shown) look(item);
}

function look(item) {
  show(item);
  showRegions(item);
  showFeedback(item);
}

function showProgress() {
  const judged = items.filter(({ result }) => result).length;
  const anomalous = items.filter(({ state }) => state === "anomalous").length;
  page.given.hidden = !items.length;
  const key = anomalous ? "list.progressAnomalous" : "list.progress";
  page.progress.textContent = text(key, { judged, anomalous, all: items.length });
}

page.gallery.onchange = () => {
  history.replaceState(null, "", `#${new URLSearchParams({ gallery: page.gallery.value })}`);
  notice("");
  showGallery();
  showView(auditIsOpen() ? "audit" : historyIsOpen() ? "history" : driftIsOpen() ? "drift" : "queries");
};
addEventListener("hashchange", pickGallery);
page.audit.onclick = () => showView(auditIsOpen() ? "queries" : "audit");
page.drift.onclick = () => showView(driftIsOpen() ? "queries" : "drift");
page.history.onclick = () => showView(historyIsOpen() ? "queries" : "history");
page.changeKey.onclick = () => askKey(text("key.another")).then(loadGalleries, () => {});

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

// Keys of the list: single letters, so only while it has the focus (WCAG 2.1.4).
const KEYS = {
  j: () => pick(beside(shown, 1)),
  k: () => pick(beside(shown, -1)),
  f: () => page.fine.checkVisibility() && !page.fine.disabled && page.fine.click(),
  y: () => page.confirm.checkVisibility() && page.confirm.click(),
  n: () => page.dismiss.checkVisibility() && page.dismiss.click(),
  d: () => page.kind.checkVisibility() && page.kind.focus(),
  u: () => page.undo.checkVisibility() && !page.undo.disabled && page.undo.click(),
};
page.list.onkeydown = (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !shown || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
};
pickBy(pick);

page.clear.onclick = clear;
page.cancel.onclick = () => cancel(shown);
page.again.onclick = () => queryAgain(shown);

loadGalleries();
