"""The page in a browser: errors, retries, cancellation and API keys."""

import json
import re
import time
from collections.abc import Callable

from playwright.sync_api import Page, Route, expect

from helpers.browser import ANY_QUERY, KEY, expect_verdict, give, good, odd, opened
from helpers.serving import Server


def test_a_file_that_is_not_an_image_is_explained(page: Page, service: str) -> None:
    give(opened(page, service), {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"}, good())
    expect_verdict(page, "Not judged")
    expect(page.locator("#explained")).to_contain_text("cannot be decoded")
    expect(page.locator("#explained")).to_contain_text("Use a JPEG or PNG image")
    expect(page.locator(".row .verdict")).to_have_text(["Not judged", "Normal"])  # the others do not wait for it


def test_a_file_over_the_size_limit_is_not_sent(page: Page, service: str) -> None:
    page.route("**/v1", lambda route: route.fulfill(json={"limits": {"body_bytes": 2**20}}))
    opened(page, service)
    give(page, {"name": "large.png", "mimeType": "image/png", "buffer": bytes(3 * 2**20)})
    expect_verdict(page, "Not judged")
    expect(page.locator("#explained")).to_have_text(
        "It has 3 MiB, the service takes 1 MiB at most. Use a smaller image."
    )


def test_a_query_refused_by_a_busy_service_is_retried(page: Page, service: str) -> None:
    asked, again = [], []

    def busy_once(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) > 1:
            again.append(route)
            return
        problem = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "the queue is full"}
        headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
        route.fulfill(status=503, headers=headers, body=json.dumps(problem))

    opened(page, service)
    page.route(ANY_QUERY, busy_once)
    give(page, odd())
    expect(page.locator("#explained")).to_have_text("The queue is full. It is asked again after 1 s.")
    while not again:
        page.wait_for_timeout(50)
    again[0].continue_()
    expect_verdict(page, "Anomalous")
    assert len(asked) == 2
    assert asked[1] - asked[0] > 0.9  # not before the time in Retry-After


def test_a_running_query_can_be_cancelled_and_repeated(page: Page, service: str) -> None:
    opened(page, service)
    page.route(ANY_QUERY, lambda route: None)  # never answered
    give(page, odd())
    expect(page.locator("#verdict")).to_have_text("Running")
    expect(page.locator("#elapsed")).to_have_text(re.compile(r"\d+ s"))
    page.get_by_role("button", name="Cancel").click()
    expect_verdict(page, "Cancelled")
    page.unroute(ANY_QUERY)
    page.get_by_role("button", name="Query again").click()
    expect_verdict(page, "Anomalous")


def test_an_api_key_is_requested_and_kept_for_the_tab(page: Page, serve: Callable[..., Server]) -> None:
    page.goto(serve(keys=f"{KEY} calibrated read").url)
    field = page.get_by_label("Key", exact=True)
    expect(page.get_by_role("dialog")).to_contain_text("asks for a key")
    field.fill("not-the-key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("does not know this key")
    field.fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Gallery").locator("option")).to_have_text(["calibrated"])
    give(page, odd())
    expect_verdict(page, "Anomalous")
    for picture in ("#heat", "#matched", "#neighbours img >> nth=0"):
        expect(page.locator(picture)).to_have_attribute("src", re.compile("blob:"))
        expect(page.locator(picture)).not_to_have_js_property("naturalWidth", 0)
    page.reload()
    expect(page.locator("#facts")).to_contain_text("12 images")  # not asked again
    assert KEY not in page.content()
    page.close()
