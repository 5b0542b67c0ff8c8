// The history of feedback: who said what of which image, and when; looked through, undone, and saved as a table.

import { locale, text } from "./language.js";
import { ask, fetchPicture, galleryPath } from "./service.js";
import { page } from "./shown.js";

const ROWS = 200; // shown at once
const SAVED = 1000; // the most that the service tells
const PAUSE = 250; // milliseconds after a key was typed

let told = null; // the gallery on display
let mayWrite = false;
let typed = 0; // a timer

export const historyIsOpen = () => !page.told.hidden;

export async function openHistory(gallery) {
  told = gallery;
  page.queries.hidden = true;
  page.told.hidden = false;
  page.toldTitle.textContent = text("history.title", { gallery });
  page.toldRows.replaceChildren();
  try {
    const described = await (await ask(galleryPath(gallery))).json();
    mayWrite = described.may_write;
    if (gallery === told) await look();
  } catch (error) {
    if (gallery === told) page.toldWords.textContent = error.message;
  }
}

export function closeHistory() {
  told = null;
  page.contains.value = "";
  page.filters.reset();
  page.toldRows.replaceChildren();
  page.told.hidden = true;
  page.queries.hidden = false;
}

function path(options) {
  const filters = [...new FormData(page.filters)].filter(([, value]) => value);
  const asked = { contains: page.contains.value, ...Object.fromEntries(filters), ...options };
  return `${galleryPath(told)}/feedback?${new URLSearchParams(asked)}`;
}

async function look() {
  const asked = path({ limit: ROWS });
  const answer = await (await ask(asked)).json();
  if (!told || path({ limit: ROWS }) !== asked) return; // another was asked for meanwhile
  page.toldWords.textContent =
    text(answer.found > ROWS ? "history.newest" : "history.found", { count: answer.found, shown: ROWS });
  page.toldRows.replaceChildren(...answer.feedback.map(newRow));
}

function newRow({ id, verdict, kind, who, given, note, there }) {
  const row = page.toldRow.content.cloneNode(true).firstElementChild;
  const name = row.querySelector(".name");
  name.textContent = id.split("/").at(-1);
  name.title = id;
  row.querySelector(".what").textContent = text(`history.${verdict}`) + (kind ? ` (${kind})` : "");
  row.querySelector(".who").textContent = who;
  row.querySelector(".given").textContent = new Date(given).toLocaleString(locale);
  row.querySelector(".note").textContent = note;
  row.querySelector(".state").textContent = text(there ? "history.there" : "history.undone");
  const button = row.querySelector("button");
  button.hidden = !there || !mayWrite;
  button.setAttribute("aria-label", text("history.undoImage", { name: id }));
  button.onclick = () => undo(id, button);
  return row;
}

async function undo(id, button) {
  button.disabled = true;
  try {
    await ask(`${galleryPath(told)}/feedback?${new URLSearchParams({ id })}`, { method: "DELETE" });
  } catch (error) {
    page.toldWords.textContent = error.message;
    button.disabled = false;
    return;
  }
  lookAgain();
}

function lookAgain() {
  if (told) look().catch((error) => (page.toldWords.textContent = error.message));
}

async function save() {
  try {
    const link = document.createElement("a");
    link.href = await fetchPicture(path({ format: "csv", limit: SAVED }));
    link.download = `feedback-${told}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } catch (error) {
    page.toldWords.textContent = error.message;
  }
}

page.contains.oninput = page.filters.oninput = () => {
  clearTimeout(typed);
  typed = setTimeout(lookAgain, PAUSE);
};
page.filters.onsubmit = (event) => event.preventDefault();
page.save.onclick = save;
