// The list of the images that were given: rows in sight alone are drawn, of the verdicts that are wanted.

import { number, text } from "./language.js";
import { page } from "./shown.js";

const BEYOND = 8; // rows drawn above and below those in sight

export let items = []; // the images that were given, in order
let listed = []; // those of them with the wanted verdict
let drawing = false;
let onPick = () => {};

// Calls `pick(item)` when an image is picked.
export function pickBy(pick) {
  onPick = pick;
}

export function addItems(fresh) {
  items.push(...fresh);
  relist();
}

export function clearItems() {
  items = [];
  page.wanted.value = "";
  relist();
}

// Returns the image that is `step` after one in the list, or the nearest that there is.
export function beside(item, step) {
  const place = listed.indexOf(item);
  return listed[Math.min(Math.max(place + step, 0), listed.length - 1)] ?? item;
}

// Shows a row's verdict; an image whose verdict is not wanted any more leaves the list.
export function showRow(item) {
  if (isWanted(item) !== listed.includes(item)) relist();
  else if (item.row) fill(item);
}

// Brings an image's row into sight, as the picked one; with `focused`, keys go there.
export function reveal(item, focused) {
  const place = listed.indexOf(item);
  if (place < 0) return;
  const height = rowHeight();
  const [top, bottom] = [place * height, (place + 1) * height];
  if (top < page.list.scrollTop) page.list.scrollTop = top;
  if (bottom > page.list.scrollTop + page.list.clientHeight) page.list.scrollTop = bottom - page.list.clientHeight;
  draw();
  const input = item.row.querySelector("input");
  input.checked = true;
  if (focused) input.focus({ preventScroll: true });
}

const isWanted = ({ state }) => !page.wanted.value || page.wanted.value.split(" ").includes(state);
const rowHeight = () => parseFloat(getComputedStyle(page.list).getPropertyValue("--row")) * rem();
const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);

function relist() {
  const before = listed;
  listed = items.filter(isWanted);
  page.rows.style.height = `calc(${listed.length} * var(--row))`;
  for (const item of before) if (!isWanted(item) || !items.includes(item)) drop(item);
  for (const item of listed) if (item.row) drop(item); // its place may be another
  draw();
}

function draw() {
  drawing = false;
  const height = rowHeight();
  const first = Math.max(0, Math.floor(page.list.scrollTop / height) - BEYOND);
  const last = Math.ceil((page.list.scrollTop + page.list.clientHeight) / height) + BEYOND;
  listed.forEach((item, place) => {
    const isNear = first <= place && place < last;
    if (isNear && !item.row) page.rows.append((item.row = newRow(item, place)));
    else if (!isNear && item.row && !item.row.contains(document.activeElement)) drop(item);
  });
}

function drop(item) {
  item.row?.remove();
  item.row = null;
}

function newRow(item, place) {
  const row = page.row.content.cloneNode(true).firstElementChild;
  row.style.top = `calc(${place} * var(--row))`;
  const input = row.querySelector("input");
  input.onchange = () => onPick(item);
  input.checked = item.isShown ?? false;
  input.setAttribute("aria-posinset", place + 1);
  input.setAttribute("aria-setsize", listed.length);
  const picture = row.querySelector("img");
  picture.onerror = () => picture.removeAttribute("src"); // of a kind that only the service can read
  picture.src = item.url;
  row.querySelector(".name").textContent = item.file.name;
  item.row = row;
  fill(item);
  return row;
}

function fill({ row, state, result }) {
  const verdict = row.querySelector(".verdict");
  verdict.textContent = text(`verdict.${state}`);
  verdict.dataset.state = state;
  row.querySelector(".score").textContent = result ? number(result.score) : "";
}

page.wanted.onchange = () => {
  page.list.scrollTop = 0;
  relist();
};
page.list.onscroll = () => {
  if (!drawing) requestAnimationFrame(draw);
  drawing = true;
};
addEventListener("resize", draw);
