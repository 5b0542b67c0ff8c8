"""The page in a browser's own language, and the files of its strings."""

import json
import re
from html.parser import HTMLParser

import pytest
from playwright.sync_api import Browser, expect

from spade_index.server.page import FILES, FOLDER

from helpers.browser import as_file, give, good, odd, opened
from helpers.uploads import spotted

LANGUAGES = ("en", "de")
SCRIPTS = [FOLDER / name for name, _ in FILES.values() if name.endswith(".js")]
KEY = r"[a-z]+\.[\w.${}]+"  # with ${expressions} in the scripts
WRITTEN = {"aria-label", "placeholder", "title", "alt"}  # attributes that people read or hear
NAMES = {"Home", "Content-Type", "Retry-After", "X-Request-Id", "Bearer ", "region of interest"}  # no one reads


def strings(language: str) -> dict[str, str | dict[str, str]]:
    """Return the strings of a language, by key."""
    return json.loads((FOLDER / f"{language}.json").read_text())


def forms(string: str | dict[str, str]) -> dict[str, str]:
    """Return the plural forms of a string."""
    return string if isinstance(string, dict) else {"other": string}


def without_comments(script: str) -> str:
    return re.sub(r"(?m)(^|\s)//.*$", "", script)


def literals(script: str) -> list[str]:
    """Return the strings in a script; of a template, the parts between its expressions."""
    script, found = without_comments(script), 1
    while found:
        script, found = re.subn(r"\$\{((?:[^{}]|\{[^{}]*\})*)\}", r"`\1`", script)
    return [plain or template for plain, template in re.findall(r'"([^"\n]*)"|`([^`]*)`', script)]


class Read(HTMLParser):
    """The words in the page's HTML, and the keys of strings that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.keys: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = "noscript" if self._inside == "noscript" else tag
        for name, value in attrs:
            if name in WRITTEN and value:
                self.words.append(value)
            elif name.startswith("data-") and name.removeprefix("data-") in WRITTEN | {"text"}:
                self.keys.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        # Without scripts there is no language; a key of the keyboard has the same name in all.
        if self._inside not in ("noscript", "kbd") and re.search(r"\w", data):
            self.words.append(data.strip())


@pytest.fixture
def html() -> Read:
    read = Read()
    read.feed((FOLDER / "index.html").read_text())
    return read


def test_the_languages_have_the_same_keys_placeholders_and_plural_forms() -> None:
    english, german = map(strings, LANGUAGES)
    assert list(english) == list(german)
    for key in english:
        said, gesagt = forms(english[key]), forms(german[key])
        assert said.keys() == gesagt.keys(), key
        for form in said:
            assert set(re.findall(r"{\w+}", said[form])) == set(re.findall(r"{\w+}", gesagt[form])), (key, form)


def test_every_string_is_used_and_every_key_has_one(html: Read) -> None:
    named = [key for file in SCRIPTS for key in re.findall(rf'["`]({KEY})["`]', without_comments(file.read_text()))]
    patterns = [re.compile(re.sub(r"\$\{.*?\}", r"\\w+", key.replace(".", r"\."))) for key in [*named, *html.keys]]
    known = strings("en")
    assert [pattern.pattern for pattern in patterns if not any(map(pattern.fullmatch, known))] == []
    assert [key for key in known if not any(pattern.fullmatch(key) for pattern in patterns)] == []


def test_the_html_and_the_scripts_have_no_words_of_their_own(html: Read) -> None:
    assert set(html.words) == {"spade_index"}
    for file in SCRIPTS:
        words = {one for one in literals(file.read_text()) if re.search(r"[a-z] [a-z]|\b[A-Z][a-z]", one)}
        assert words - NAMES == set(), file.name


def test_a_german_browser_shows_german(chromium: Browser, service: str) -> None:
    context = chromium.new_context(locale="de-DE")
    page = opened(context.new_page(), service)
    expect(page.locator("html")).to_have_attribute("lang", "de")
    expect(page.locator("#facts")).to_contain_text("12 Bilder · Stand")
    give(page, odd(), good())
    expect(page.locator("#progress")).to_have_text("2 von 2 geprüft, 1 auffällig")
    expect(page.locator("#verdict")).to_have_text("Auffällig")
    expect(page.locator("#score")).to_have_text(re.compile(r"^Score [\d.]*\d(,\d+)?$"))
    expect(page.get_by_role("button", name="Erneut prüfen")).to_be_visible()
    expect(page.get_by_label("Grund")).to_have_attribute("placeholder", "Grund (optional)")
    give(page, as_file("spots.png", spotted()))
    expect(page.locator("#verdict")).to_have_text("Auffällig")
    page.get_by_text("Eine Fehlerart je Region").click()
    page.get_by_label("Fehlerart von Region 1").fill("Delle")
    page.get_by_label("Region 2 ist ein Fehler").uncheck()
    expect(page.get_by_text("(1 mit eigener, 1 ausgelassen)")).to_be_visible()
    page.get_by_role("button", name="Das sind die Fehler").click()
    expect(page.locator("#said")).to_have_text("Geben Sie zuerst die Fehlerart von Region 3 an, oder eine für alle.")
    page.get_by_role("button", name="Drift").click()
    expect(page.locator("#charts section").first).to_contain_text("Erwartet werden 50 %.")
    context.close()


def test_other_browsers_show_english(chromium: Browser, service: str) -> None:
    context = chromium.new_context(locale="fr-FR")
    page = opened(context.new_page(), service)
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("#facts")).to_contain_text("12 images")
    context.close()
