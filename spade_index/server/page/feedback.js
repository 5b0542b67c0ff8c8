// Feedback on the image on display: "This one is fine" adds it to the gallery, "Undo" takes it back.

import { ask, galleryPath } from "./service.js";
import { page, shown } from "./shown.js";

const PAUSE = 300; // milliseconds between two looks at a job
const LATER = "Query again to see its verdict now.";

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
  page.fine.disabled = page.undo.disabled = Boolean(saying);
  page.fine.hidden = page.why.hidden = true;
  page.feedback.hidden = !isNoted && !item.said;
  if (isNoted || state !== "anomalous" || !(await mayWrite(gallery))) return;
  if (item !== shown || item.state !== state || item.feedback !== feedback) return; // it has changed meanwhile
  page.fine.hidden = page.why.hidden = page.feedback.hidden = false;
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

async function sayFine(item) {
  const { gallery, file } = item;
  const note = page.why.value;
  page.why.value = "";
  await change(item, `It is being added to ${gallery}.`, async (busy) => {
    const form = new FormData();
    form.append("images", file, file.name);
    const path = `${galleryPath(gallery)}/feedback?${new URLSearchParams({ verdict: "false_alarm", note })}`;
    const job = await ended(await (await ask(path, { method: "POST", body: form, onBusy: busy })).json());
    if (job.state !== "done") return `It was not added: ${job.error ?? job.state}.`;
    if (!job.report.added) return `It was not added: ${job.notices[0] ?? "it is in the gallery already"}.`;
    item.feedback = { gallery, id: job.feedback_ids[0] };
    return `It is a normal image of ${gallery} now. ${LATER}`;
  });
}

async function undo(item) {
  const { gallery, id } = item.feedback;
  await change(item, `It is being removed from ${gallery}.`, async (busy) => {
    const path = `${galleryPath(gallery)}/feedback?${new URLSearchParams({ id })}`;
    await ask(path, { method: "DELETE", onBusy: busy });
    item.feedback = null;
    return `It is no normal image of ${gallery} any more. ${LATER}`;
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
    tell(await work((seconds, why) => tell(`${why} It is asked again after ${seconds} s.`, true)), false);
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

page.fine.onclick = () => sayFine(shown);
page.undo.onclick = () => undo(shown);
