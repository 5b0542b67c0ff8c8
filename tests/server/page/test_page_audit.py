"""The page in a browser: the audit of a gallery, and the removal of an image."""

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from helpers.browser import give, good, opened
from helpers.serving import Server

READER, WRITER = "a-key-that-only-reads", "a-key-that-may-write"


def audited(page: Page) -> Page:
    """Open the audit of the chosen gallery."""
    page.get_by_role("button", name="Audit").click()
    expect(page.locator("#odd li")).to_have_count(12)
    return page


def images(server: Server, **headers: str) -> int:
    return server.http.get("/v1/galleries/calibrated", headers=headers).json()["images"]


def test_odd_images_are_ranked_with_their_maps(page: Page, server: Server) -> None:
    audited(opened(page, f"{server.url}/"))
    told = server.http.get("/v1/galleries/calibrated/audit").json()
    expect(page.locator("#odd .name")).to_have_text([image["id"] for image in told["odd"]])
    expect(page.locator("#auditWords")).to_contain_text("Ranked 12 of 12 images")
    expect(page.locator("#odd .said").first).to_contain_text(re.compile(r"looks worse than 92 % of the ranked images"))
    for picture in page.locator("#odd img").all():
        expect(picture).not_to_have_js_property("naturalWidth", 0)
    expect(page.locator("#drop")).to_be_hidden()
    page.get_by_label("Gallery").select_option("plain")
    expect(page.locator("#auditWords")).to_contain_text("spade-index calibrate")
    page.get_by_role("button", name="Audit").click()
    expect(page.locator("#drop")).to_be_visible()
    audited(opened(page, f"{server.url}/"))
    give(page, good())
    expect(page.locator("#verdict")).to_have_text("Normal")


def test_a_click_removes_an_image_once_it_is_confirmed(page: Page, server: Server) -> None:
    audited(opened(page, f"{server.url}/"))
    card = page.locator("#odd li").first
    id = card.locator(".name").inner_text()
    card.get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"{id} is removed from calibrated")
    page.get_by_role("button", name="Cancel").click()
    assert images(server) == 12
    card.get_by_role("button").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(card.get_by_role("button")).to_have_text("Restore")
    assert images(server) == 11
    assert id not in server.http.get("/v1/galleries/calibrated/images").text
    card.get_by_role("button").click()
    expect(card.get_by_role("button")).to_have_text("Remove…")
    assert images(server) == 12


def test_only_a_key_that_may_write_is_offered_the_removal(page: Page, serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{READER} calibrated read; {WRITER} calibrated write")
    for key, buttons in ((READER, 0), (WRITER, 12)):
        page.goto(server.url)
        if key == WRITER:
            page.get_by_role("button", name="API key…").click()
        page.get_by_label("Key", exact=True).fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#facts")).to_contain_text("12 images")
        audited(page)
        expect(page.locator("#auditWords")).to_contain_text("an API key that may write" if not buttons else "Ranked 12")
        expect(page.locator("#odd button:visible")).to_have_count(buttons)
