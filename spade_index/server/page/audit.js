// The audit: a gallery's odd images with their maps, its near-duplicates, and their removal.

import { number, text } from "./language.js";
import { ask, fetchPicture, galleryPath } from "./service.js";
import { page, worse } from "./shown.js";

const GROUPS = 20; // of near-duplicates that are shown,
const IN_GROUP = 12; // and images of each

let audited = null; // the gallery on display
let mayWrite = false;
let pictures = []; // promised
const cards = new Map(); // lists of cards, by image: an odd one may be a near-duplicate, too

export const auditIsOpen = () => !page.audited.hidden;

export async function openAudit(gallery) {
  closeAudit();
  audited = gallery;
  page.queries.hidden = true;
  page.audited.hidden = false;
  page.auditTitle.textContent = text("audit.title", { gallery });
  page.auditWords.textContent = text("audit.comparing");
  try {
    const found = await (await ask(`${galleryPath(gallery)}/audit`)).json();
    const described = await (await ask(galleryPath(gallery))).json();
    if (gallery !== audited) return;
    mayWrite = described.may_write;
    showFound(found);
  } catch (error) {
    if (gallery === audited) page.auditWords.textContent = error.message;
  }
}

export function closeAudit() {
  audited = null;
  for (const picture of pictures) picture.then(URL.revokeObjectURL, () => {});
  pictures = [];
  cards.clear();
  page.odd.replaceChildren();
  page.doubled.replaceChildren();
  page.doubledPart.hidden = true;
  page.audited.hidden = true;
  page.queries.hidden = false;
}

function showFound(found) {
  const { ranked, images, compared } = found;
  page.auditWords.textContent =
    `${text("audit.found", { ranked, images, compared })} ${mayWrite ? "" : text("audit.readOnly")}`;
  page.odd.replaceChildren(...found.odd.map((image) => {
    const said = text("audit.said", { score: number(image.score), percent: worse(image.p_value) });
    return newCard(image.id, said, image.heat);
  }));
  const groups = found.near_duplicates;
  page.doubledPart.hidden = !groups.length;
  page.doubledWords.textContent =
    groups.length > GROUPS ? text("audit.largest", { shown: GROUPS, all: groups.length }) : "";
  page.doubled.replaceChildren(...groups.slice(0, GROUPS).map((ids) => {
    const group = document.createElement("ol");
    group.className = "cards";
    const more = ids.length > IN_GROUP ? text("audit.more", { more: ids.length - IN_GROUP }) : "";
    group.replaceChildren(...ids.slice(0, IN_GROUP).map((id) => newCard(id, "")), more);
    return group;
  }));
}

function newCard(id, said, heat) {
  const card = page.card.content.cloneNode(true).firstElementChild;
  card.querySelector(".name").textContent = id;
  card.querySelector(".said").textContent = said;
  const [image, over] = card.querySelectorAll("img");
  image.alt = text("audit.image", { name: id });
  showPicture(image, `${galleryPath(audited)}/thumbnail?${new URLSearchParams({ id })}`);
  if (heat) showPicture(over, heat.replace(/^\/v1/, ""));
  else over.remove();
  const button = card.querySelector("button");
  button.hidden = !mayWrite;
  button.setAttribute("aria-label", text("audit.named.remove", { name: id }));
  button.onclick = () => (card.classList.contains("gone") ? change("restore", id) : confirmRemoval(id));
  cards.set(id, [...(cards.get(id) ?? []), card]);
  return card;
}

function showPicture(image, path) {
  const picture = fetchPicture(path);
  pictures.push(picture);
  picture.then((url) => image.isConnected && (image.src = url), () => {}); // not once the audit was closed
}

function confirmRemoval(id) {
  page.removalWords.textContent = text("audit.removalWords", { name: id, gallery: audited });
  page.removal.returnValue = "";
  page.removal.onclose = () => page.removal.returnValue === "remove" && change("remove", id);
  page.removal.showModal();
}

// Asks as JSON, which a form of another site cannot send, and from this origin, which the service checks.
async function change(action, id) {
  const gallery = audited;
  try {
    await ask(`${galleryPath(gallery)}/${action}`, {
      method: "POST",
      body: JSON.stringify({ ids: [id] }),
      headers: { "Content-Type": "application/json" },
    });
  } catch (error) {
    page.auditWords.textContent = error.message;
    return;
  }
  if (gallery !== audited) return;
  for (const card of cards.get(id)) {
    card.classList.toggle("gone", action === "remove");
    const button = card.querySelector("button");
    const next = action === "remove" ? "restore" : "remove";
    button.textContent = text(`audit.${next}`);
    button.setAttribute("aria-label", text(`audit.named.${next}`, { name: id }));
  }
}

page.removalCancel.onclick = () => page.removal.close();
