// What feedback would change, before it is committed: the verdicts on images that were judged before, each with its picture.

import { locale, number, text } from "./language.js";
import { page, pictureAt } from "./shown.js";

const VERDICT = { true: "anomalous", false: "normal", null: "unknown" };

export function showPreview({ preview, gallery, saying }) {
  page.preview.hidden = preview?.gallery !== gallery || Boolean(saying);
  page.previewed.replaceChildren();
  if (page.preview.hidden) return;
  if (!preview.found) {
    page.previewWords.textContent = text("preview.failed", { why: preview.error });
    return;
  }
  const { kept, replayed, changes } = preview.found;
  const others = changes.filter(({ given }) => !given);
  const found = !changes.length ? "none" : others.length < changes.length ? "own" : "others";
  const late = replayed < kept ? text("preview.late", { judged: replayed, all: kept }) : "";
  const counts = { gallery: preview.gallery, differ: changes.length, count: replayed };
  page.previewWords.textContent = `${text(`preview.${found}`, counts)} ${late}`;
  page.previewed.replaceChildren(...others.map(newChange));
}

function newChange(change) {
  const { before, after, picture } = change;
  const entry = page.changed.content.cloneNode(true).firstElementChild;
  const name = nameOf(change);
  entry.querySelector(".name").textContent = name;
  const scores = { scoreBefore: number(before.score), scoreAfter: number(after.score) };
  entry.querySelector(".distance").textContent =
    text("preview.change", { before: verdictOf(before), after: verdictOf(after), ...scores });
  entry.querySelector("img").alt = text("preview.image", { name });
  entry.querySelector("button").onclick = () => showChange(change);
  pictureOf(picture).then((url) => (entry.querySelector("img").src = url), () => {});
  return entry;
}

// Shows an image as large as there is room, with the verdict that was and the one that would be.
function showChange(change) {
  const name = nameOf(change);
  page.changeName.textContent = name;
  page.changeJudged.textContent = text("preview.judged", { when: new Date(change.judged).toLocaleString(locale) });
  for (const when of ["before", "after"]) {
    const { score, threshold } = change[when];
    const part = page.changeVerdicts.querySelector(`.${when}`);
    part.querySelector(".verdict").textContent = verdictOf(change[when]);
    part.querySelector(".verdict").dataset.state = VERDICT[change[when].anomalous];
    part.querySelector(".words").textContent =
      text("preview.scored", { score: number(score), threshold: number(threshold) });
  }
  page.changePicture.alt = text("preview.image", { name });
  page.changePicture.removeAttribute("src");
  pictureOf(change.picture).then((url) => (page.changePicture.src = url), () => {});
  page.change.showModal();
}

const nameOf = ({ image }) => image ?? text("preview.nameless");
const verdictOf = ({ anomalous }) => text(`verdict.${VERDICT[anomalous]}`);
const pictureOf = (picture) => pictureAt(picture.replace(/^\/v1/, ""));

page.changeClose.onclick = () => page.change.close();
