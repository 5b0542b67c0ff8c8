"""The page with hundreds of images: few rows are drawn, verdicts are filtered, keys walk; and drift is shown."""

import json

from playwright.sync_api import Page, Route, expect

from spade_index.client import Client

from helpers.browser import ANY_QUERY, as_file, give, good, odd, opened
from helpers.tiny import png

IMAGES = 300
ROWS = "#list .row"


def judged(route: Route) -> None:
    """Answer a query without a service: every tenth image is anomalous."""
    name = route.request.url.split("name=")[1].split(".")[0]
    score = 9.0 if int(name) % 10 == 0 else 1.0
    result = {"score": score, "kind": "pooled", "scores": {"pooled": score}, "threshold": 5.0, "anomalous": score > 5}
    result |= {"width": 40, "height": 36, "snapshot": 1, "neighbours": [], "evidence": None, "score_map": None}
    route.fulfill(body=json.dumps({"results": [result]}), content_type="application/json")


def test_of_hundreds_of_images_the_rows_in_sight_are_drawn_and_verdicts_filtered(page: Page, service: str) -> None:
    page.route(ANY_QUERY, judged)
    opened(page, service)
    data = png(3)
    give(page, *(as_file(f"{place:03d}.png", data) for place in range(IMAGES)))
    expect(page.locator("#progress")).to_have_text(f"{IMAGES} of {IMAGES} judged, 30 anomalous")
    rows = page.locator(ROWS)
    assert 5 < rows.count() < 60
    page.locator("#list").evaluate("list => list.scrollTo(0, list.scrollHeight)")
    expect(page.locator(ROWS, has_text=f"{IMAGES - 1}.png")).to_be_visible()
    assert rows.count() < 60
    page.get_by_label("Show").select_option("anomalous")
    expect(page.locator(ROWS, has_text="Normal")).to_have_count(0)
    expect(page.locator(ROWS, has_text="020.png")).to_be_visible()
    page.locator(ROWS, has_text="020.png").click()
    expect(page.locator("#name")).to_have_text("020.png")
    page.keyboard.press("j")
    expect(page.locator("#name")).to_have_text("030.png")  # the next of those that are listed
    for _ in range(40):
        page.keyboard.press("j")
    expect(page.locator("#name")).to_have_text("290.png")
    expect(page.locator(ROWS, has_text="290.png")).to_be_visible()
    page.keyboard.press("k")
    expect(page.locator("#name")).to_have_text("280.png")
    page.get_by_role("button", name="Clear").click()
    expect(rows).to_have_count(0)


def test_feedback_is_given_by_keys_of_the_list_alone(page: Page, serve) -> None:
    server = serve()
    opened(page, f"{server.url}/")
    give(page, odd(), good())
    expect(page.locator("#progress")).to_have_text("2 of 2 judged, 1 anomalous")
    expect(page.get_by_role("button", name="This one is fine")).to_be_visible()
    page.get_by_label("Why").focus()
    page.keyboard.press("f")  # a letter of the note
    expect(page.get_by_label("Why")).to_have_value("f")
    page.locator(ROWS).first.click()
    page.keyboard.press("f")
    expect(page.locator("#previewWords")).to_contain_text("1 of the last 2 verdicts would change")
    page.keyboard.press("n")
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.get_by_role("button", name="This one is fine")).to_be_visible()
    page.keyboard.press("f")
    expect(page.locator("#preview")).to_be_visible()
    page.keyboard.press("y")
    expect(page.locator("#said")).to_contain_text("It is a normal image of calibrated now.")
    page.keyboard.press("u")
    expect(page.locator("#said")).to_contain_text("It is no normal image of calibrated any more.")


def test_drift_is_drawn_and_told_of_enough_images(page: Page, service: str) -> None:
    opened(page, service)
    give(page, odd(), good())
    expect(page.locator("#progress")).to_have_text("2 of 2 judged, 1 anomalous")
    page.get_by_role("button", name="Drift").click()
    charts = page.locator("#charts section")
    expect(charts.locator("h3")).to_have_text(["Score", "Brightness"])
    expect(charts.first).to_contain_text("images score higher than")
    expect(charts.first).to_contain_text("50 % is expected.")
    expect(charts.first.locator(".verdict")).to_have_text("Too few images")
    expect(charts.first.locator(".chance")).to_have_text("From 30 images on, this page says whether they drift.")
    expect(charts.first.locator("rect.count")).to_have_count(10)
    with Client(service) as client:
        for first in (500, 520):
            client.query("calibrated", [png(seed) for seed in range(first, first + 20)], maps="never")
    page.get_by_role("button", name="Drift").click()
    page.get_by_role("button", name="Drift").click()
    expect(charts.last.locator(".verdict")).to_have_text("No drift")
    expect(charts.last.locator(".chance")).to_contain_text("Chance alone is as far off in")
    page.get_by_role("button", name="Drift").click()
    expect(page.locator("#drop")).to_be_visible()
