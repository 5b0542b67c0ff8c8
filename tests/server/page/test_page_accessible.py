"""The page as axe sees it, in the browser: all its states keep the rules of WCAG 2.1 that can be checked, to AA."""

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from helpers.browser import as_file, expect_verdict, give, good, odd, opened
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import odd as odd_image
from helpers.uploads import parts, spotted

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
LOOKS = (({"width": 1440, "height": 900}, "light"), ({"width": 390, "height": 844}, "dark"))  # a desk's, a phone's

States = Callable[[Page, Server], Iterator[None]]


def results(page: Page, server: Server) -> Iterator[None]:
    """Show the evidence of one of several images, its regions, and a known defect that they are like."""
    yield
    say(server, "defect", kind="scratch")
    give(page, odd(), good(), as_file("broken.png", b"no image"))
    expect_verdict(page, "Anomalous")
    expect(page.locator("#alikes li").first).to_be_visible()
    expect(page.get_by_role("button", name="This one is fine")).to_be_visible()
    expect(page.locator("#progress")).to_have_text("2 of 3 judged, 1 anomalous")
    yield


def kinds(page: Page, server: Server) -> Iterator[None]:
    """Open the regions of an image, to give each a kind of its own; leave one out."""
    give(page, as_file("spots.png", spotted()))
    expect_verdict(page, "Anomalous")
    page.get_by_text("A kind for each region").click()
    page.get_by_label("Kind of region 1").fill("scratch")
    page.get_by_label("Region 2 is a defect").uncheck()
    page.get_by_role("button", name="These are the defects").click()
    expect(page.locator("#said")).to_have_text("Name the kind of region 3 first, or one for all.")
    yield


def preview(page: Page, server: Server) -> Iterator[None]:
    """Show what would change, and then one of the images."""
    give(page, odd("the same part.png"), as_file("odd.png", odd_image(shade=250)))
    expect(page.locator("#progress")).to_have_text("2 of 2 judged, 2 anomalous")
    page.get_by_role("button", name="This one is fine").click()
    expect(page.locator("#previewed li")).to_have_count(1)
    yield
    page.locator("#previewed button").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    yield


def views(page: Page, server: Server) -> Iterator[None]:
    """Show the history, the drift and the audit, and ask whether an image shall be removed."""
    say(server, "false_alarm", note="a shadow")
    page.get_by_role("button", name="History").click()
    expect(page.locator("#toldRows tr")).to_have_count(1)
    yield
    server.query("calibrated", odd_image())
    page.get_by_role("button", name="Drift").click()
    expect(page.locator("#charts section")).to_have_count(2)
    yield
    page.get_by_role("button", name="Audit").click()
    expect(page.locator("#odd li")).to_have_count(13)
    yield
    page.locator("#odd button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    yield


def say(server: Server, verdict: str, **options: str) -> None:
    """Give feedback on an image."""
    image = odd_image() if verdict == "defect" else png(200)
    path, asked = "/v1/galleries/calibrated/feedback", {"verdict": verdict, **options}
    server.finished(server.http.post(path, params=asked, files=parts(("part.png", image))).json()["id"])


def violations(page: Page) -> str:
    """Return what axe finds, as text."""
    found = Axe().run(page, options=RULES)
    return found.generate_report() if found.violations_count else ""


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("states", [results, kinds, preview, views])
def test_each_state_of_the_page_is_accessible(page: Page, server: Server, states: States) -> None:
    opened(page, f"{server.url}/")
    for _ in states(page, server):
        for size, colours in LOOKS:
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=colours)
            assert violations(page) == "", (size, colours)


def test_the_page_in_german_is_accessible(chromium: Browser, service: str) -> None:
    context = chromium.new_context(locale="de-DE", reduced_motion="reduce")
    page = opened(context.new_page(), service)
    give(page, as_file("spots.png", spotted()), good())
    expect(page.locator("#match")).to_contain_text("Abstand")
    page.get_by_text("Eine Fehlerart je Region").click()
    expect(page.get_by_label("Fehlerart von Region 2")).to_be_visible()
    assert violations(page) == ""
    page.evaluate("document.querySelector('label[for=gallery]').remove()")
    assert "#gallery" in violations(page)  # axe does look
    context.close()
