// Asks /v1 of the service that this page came from; says in plain words what went wrong and what to do.

import { text } from "./language.js";

const WITH_REMEDY = [400, 403, 413, 415, 422, 500];

let key = sessionStorage.getItem("spade-index-key");
let asking = null; // one dialog, however many requests wait for a key

export class Problem extends Error {
  constructor(words, status = 0) {
    super(words);
    this.status = status;
  }
}

// Fetches a path below /v1. Asks for an API key where one is needed; where the service is busy, waits as long as it
// says, telling `onBusy(seconds, why)`, and tries again until `signal` is aborted.
export async function ask(path, { onBusy = () => {}, signal, ...options } = {}) {
  for (;;) {
    const used = key;
    const headers = used ? { Authorization: `Bearer ${used}` } : {};
    let response;
    try {
      response = await fetch(`v1${path}`, { ...options, signal, headers: { ...options.headers, ...headers } });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(text("problem.noAnswer"));
    }
    if (response.ok) return response;
    if (response.status === 401) {
      if (used === key) await askKey(text(used ? "key.unknown" : "key.asked"));
    } else if (response.status === 503) {
      const seconds = Math.min(Math.max(Number(response.headers.get("Retry-After")) || 2, 1), 60);
      onBusy(seconds, (await problemOf(response)).message);
      await sleep(seconds, signal);
    } else {
      throw await problemOf(response);
    }
  }
}

// A blob: URL of a picture of the service's: an <img> alone would not send the key.
export async function fetchPicture(path, options) {
  return URL.createObjectURL(await (await ask(path, options)).blob());
}

export const galleryPath = (name) => `/galleries/${encodeURIComponent(name)}`;
export const hasKey = () => Boolean(key);

export function askKey(words) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = document.getElementById("key");
    const value = document.getElementById("keyValue");
    document.getElementById("keyWords").textContent = words;
    document.getElementById("keyCancel").onclick = () => dialog.close();
    dialog.returnValue = value.value = "";
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      key = value.value.trim();
      sessionStorage.setItem("spade-index-key", key);
      dialog.close("use");
    };
    dialog.onclose = () => {
      asking = null;
      if (dialog.returnValue === "use") resolve();
      else reject(new Problem(text("key.missing"), 401));
    };
    dialog.showModal();
  });
  return asking;
}

async function problemOf(response) {
  const problem = await response.json().catch(() => ({}));
  const detail = sentence(problem.errors?.[0]?.detail || problem.detail || problem.title || text("problem.refused"));
  const id = problem.request_id ?? response.headers.get("X-Request-Id");
  const remedy = WITH_REMEDY.includes(response.status) ? text(`problem.${response.status}`, { id }) : "";
  return new Problem(`${detail} ${remedy}`.trim(), response.status);
}

function sentence(words) {
  const whole = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    signal?.addEventListener("abort", stop, { once: true });
  });
}
