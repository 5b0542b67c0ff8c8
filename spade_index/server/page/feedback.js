// Feedback on the image on display: "This one is fine" makes it a normal image, once it was shown which verdicts that
// changes; what shows a defect makes that known; and "Undo" takes it back.

import { boxesOf, faultOf, forgetEach, showEach } from "./kinds.js";
import { text } from "./language.js";
import { showPreview } from "./preview.js";
import { ask, galleryPath } from "./service.js";
import { page, shown } from "./shown.js";

const MARKS = 25; // the cursor's mark across an image
const PAUSE = 300; // milliseconds between two looks at a job
const DEFECTIVE = { anomalous: text("feedback.defect"), normal: text("feedback.missed") }; // by the verdict

let rights = new Map(); // whether the key may write, promised, by gallery

// Another key may do other things.
export function forgetRights() {
  rights = new Map();
}

export async function showFeedback(item) {
  const { gallery, state, feedback, saying } = item;
  const isNoted = feedback?.gallery === gallery; // the image may have been compared with another one since
  page.said.textContent = item.said ?? "";
  page.undo.hidden = !isNoted;
  for (const control of [page.fine, page.defect, page.undo, page.eachRegions]) control.disabled = Boolean(saying);
  page.fine.hidden = page.defective.hidden = page.why.hidden = true;
  page.feedback.hidden = !isNoted && !item.said;
  showEach(null);
  showPreview(item);
  if (item.preview || isNoted || !(state in DEFECTIVE) || !(await mayWrite(gallery))) return;
  if (item !== shown || item.state !== state || item.feedback !== feedback) return; // it has changed meanwhile
  page.fine.hidden = state !== "anomalous";
  page.defect.textContent = DEFECTIVE[state];
  page.kind.placeholder = text(state === "normal" ? "feedback.ofKindOptional" : "feedback.ofKind");
  page.defective.hidden = page.why.hidden = page.feedback.hidden = false;
  showKinds(item);
  if (state === "anomalous") showEach(item);
}

async function mayWrite(gallery) {
  if (!rights.has(gallery)) rights.set(gallery, ask(galleryPath(gallery)).then((answer) => answer.json()));
  try {
    return (await rights.get(gallery)).may_write;
  } catch {
    rights.delete(gallery);
    return false;
  }
}

// Offers the kinds that the image's regions are near to.
function showKinds({ result }) {
  const kinds = (result?.regions ?? []).map(({ known_defect: known }) => known?.kind).filter(Boolean);
  page.kinds.replaceChildren(...[...new Set(kinds)].map((kind) => new Option("", kind)));
}

// Finds out which verdicts would change, and asks whether they shall.
async function previewFine(item) {
  const { gallery } = item;
  const note = page.why.value;
  page.why.value = "";
  await change(item, text("feedback.previewing"), async (busy) => {
    const job = await said(item, { verdict: "false_alarm", preview: true }, busy);
    const isCopy = job.state === "done" && !job.report.added;
    if (isCopy) return notAdded(job);
    item.preview = { gallery, note, found: job.previewed, error: whyNot(job) };
    return "";
  });
}

async function sayFine(item) {
  const { gallery, note } = item.preview;
  item.preview = null;
  await change(item, text("feedback.adding", { gallery }), async (busy) => {
    const job = await said(item, { verdict: "false_alarm", note }, busy);
    if (job.state !== "done" || !job.report.added) return notAdded(job);
    item.feedback = { gallery, id: job.feedback_ids[0] };
    return text("feedback.added", { gallery });
  });
}

function notAdded(job) {
  const why = job.state === "done" ? (job.notices[0] ?? text("feedback.there")) : whyNot(job);
  return text("feedback.notAdded", { why });
}

// Why a job was not done; undefined where it was.
function whyNot({ error, state }) {
  return error ?? (state === "done" ? undefined : text(`job.${state}`));
}

async function sayDefect(item) {
  const { gallery, state, result } = item;
  const isMissed = state === "normal";
  const kind = page.kind.value.trim();
  const fault = isMissed ? null : faultOf(item, kind);
  if (fault) {
    page.said.textContent = fault.why;
    if (page.each.contains(fault.field)) page.each.open = true;
    fault.field.focus();
    return;
  }
  const boxes = isMissed ? [boxAt(item)] : boxesOf(item);
  const note = page.why.value;
  page.kind.value = page.why.value = "";
  await change(item, text("feedback.noting", { gallery }), async (busy) => {
    const what = Object.entries({ verdict: isMissed ? "missed" : "defect", kind, note });
    const job = await said(item, [...what, ...boxes.map((box) => ["box", box])], busy);
    if (job.state !== "done") return text("feedback.notNoted", { why: whyNot(job) });
    if (!job.report.known_defects) return text("feedback.notNoted", { why: job.notices[0] ?? text("feedback.known") });
    item.feedback = { gallery, id: job.feedback_ids[0], isDefect: true };
    forgetEach(result);
    return text("feedback.noted", { gallery });
  });
}

// The place of the cursor, about as large as its mark: X,Y,WIDTH,HEIGHT in pixels of the image.
function boxAt({ place, result: { width, height } }) {
  const edge = Math.max(1, Math.round(Math.max(width, height) / MARKS));
  const sizes = [Math.min(edge, width), Math.min(edge, height)];
  const corner = [width, height].map((whole, axis) =>
    Math.min(Math.max(place[axis] - Math.floor(sizes[axis] / 2), 0), whole - sizes[axis]));
  return [...corner, ...sizes].join(",");
}

// Sends the image with what is said of it; returns the job once it has ended.
async function said({ gallery, file }, what, onBusy) {
  const form = new FormData();
  form.append("images", file, file.name);
  const options = new URLSearchParams(what);
  const path = `${galleryPath(gallery)}/feedback?${options}`;
  return ended(await (await ask(path, { method: "POST", body: form, onBusy })).json());
}

async function undo(item) {
  const { gallery, id, isDefect } = item.feedback;
  await change(item, text("feedback.undoing"), async (busy) => {
    const path = `${galleryPath(gallery)}/feedback?${new URLSearchParams({ id })}`;
    await ask(path, { method: "DELETE", onBusy: busy });
    item.feedback = null;
    if (isDefect) return text("feedback.undoneDefect", { gallery });
    return text("feedback.undoneFine", { gallery });
  });
}

// Tells the state of a change before and after it.
async function change(item, before, work) {
  const tell = (said, saying) => {
    Object.assign(item, { said, saying });
    if (item === shown) showFeedback(item);
  };
  tell(before, true);
  try {
    tell(await work((seconds, why) => tell(text("query.askedAgain", { why, seconds }), true)), false);
  } catch (error) {
    tell(error.message, false);
  }
}

// Waits for the end of a job.
async function ended(job) {
  while (["receiving", "queued", "running"].includes(job.state)) {
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
    job = await (await ask(`/jobs/${job.id}`)).json();
  }
  return job;
}

page.fine.onclick = () => previewFine(shown);
page.confirm.onclick = () => sayFine(shown);
page.dismiss.onclick = () => {
  shown.preview = null;
  showFeedback(shown);
};
page.defect.onclick = page.eachSay.onclick = () => sayDefect(shown);
page.undo.onclick = () => undo(shown);
