// The language of the page: its strings, and how it writes numbers. English where the browser prefers none that is here.

const LANGUAGES = ["en", "de"]; // each a file of strings: LANGUAGE.json
const TRANSLATED = ["aria-label", "placeholder", "title"]; // attributes; data-NAME has the key of the string

const baseOf = (tag) => tag.split("-")[0].toLowerCase();
export const locale = navigator.languages.find((tag) => LANGUAGES.includes(baseOf(tag))) ?? "en";
const language = baseOf(locale);
const strings = await (await fetch(`${language}.json`)).json();
const plurals = new Intl.PluralRules(language);

export const number = (value, digits = 4) => value.toLocaleString(locale, { maximumSignificantDigits: digits });

// Returns a string with its {placeholders} filled in. `count` decides between the forms of one that has several.
export function text(key, values = {}) {
  const found = strings[key];
  const form = typeof found === "string" ? found : found[plurals.select(values.count)];
  const written = (value) => (typeof value === "number" ? number(value, 9) : value);
  return form.replace(/\{(\w+)\}/g, (_, name) => written(values[name]));
}

function translate(root) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const name of TRANSLATED)
    for (const element of root.querySelectorAll(`[data-${name}]`))
      element.setAttribute(name, text(element.getAttribute(`data-${name}`)));
}

document.documentElement.lang = language;
translate(document);
for (const template of document.querySelectorAll("template")) translate(template.content);
