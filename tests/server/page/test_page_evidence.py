"""The page in a browser: heat map, matched places, and pictures as they are shown."""

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from helpers.browser import ANY_QUERY, SIZE, as_file, centre, expect_verdict, give, odd, opened
from helpers.tiny import random_image
from helpers.uploads import encoded


def test_the_slider_changes_the_opacity_of_the_heat_map(page: Page, service: str) -> None:
    give(opened(page, service), odd())
    expect_verdict(page, "Anomalous")
    heat = page.locator("#heat")
    assert heat.bounding_box() == page.locator("#image").bounding_box()
    expect(heat).not_to_have_js_property("naturalWidth", 0)
    for percent in (0, 25, 100):
        page.get_by_label("Heat map").fill(str(percent))
        expect(heat).to_have_css("opacity", f"{percent / 100:g}")


def test_regions_are_outlined_on_the_image_unless_they_are_switched_off(page: Page, service: str) -> None:
    opened(page, service)
    with page.expect_response(ANY_QUERY) as answered:
        give(page, odd())
    expect_verdict(page, "Anomalous")
    regions = answered.value.json()["results"][0]["regions"]
    lines = page.locator("#regions polygon.line")
    expect(lines).to_have_count(len(regions))
    assert page.locator("#regions").bounding_box() == page.locator("#image").bounding_box()
    points = lines.first.get_attribute("points")
    assert points is not None
    assert [[float(edge) for edge in point.split(",")] for point in points.split()] == regions[0]["polygon"]
    page.get_by_label("region").uncheck()
    expect(lines.first).to_be_hidden()
    page.get_by_label("Gallery").select_option("plain")
    page.get_by_role("button", name="Query again").click()
    expect_verdict(page, "No threshold")
    expect(page.locator("#outlines")).to_be_hidden()
    expect(lines).to_have_count(0)


def test_a_click_shows_the_matched_place(page: Page, service: str) -> None:
    give(opened(page, service), odd())
    expect_verdict(page, "Anomalous")
    box = page.locator("#query").bounding_box()
    assert box is not None
    x, y = 11, 29
    place = {"x": (x + 0.5) / SIZE[0] * box["width"], "y": (y + 0.5) / SIZE[1] * box["height"]}
    with page.expect_response("**/match?*") as answered:
        page.locator("#query").click(position=place)
    found = answered.value.json()
    assert found["pixel"] == [x, y]
    there = found["neighbour_pixel"]
    expect(page.locator("#place")).to_have_text(f"at ({x}, {y})")
    expect(page.locator("#matchedName")).to_have_text(found["neighbour"])
    expect(page.locator("#matchedPlace")).to_have_text(f"at ({there[0]}, {there[1]})")
    assert centre(page, "#cursor", "#query", SIZE) == pytest.approx((x + 0.5, y + 0.5), abs=0.2)
    mark = centre(page, "#neighbour .mark", "#neighbour", found["neighbour_size"])
    assert mark == pytest.approx((there[0] + 0.5, there[1] + 0.5), abs=0.2)
    expect(page.get_by_alt_text(f"Normal image {found['neighbour']}")).to_be_visible()


def test_the_cursor_starts_at_and_returns_to_the_worst_place(page: Page, service: str) -> None:
    opened(page, service)
    with page.expect_response(ANY_QUERY) as answered:
        give(page, odd())
    expect_verdict(page, "Anomalous")
    x, y = answered.value.json()["results"][0]["evidence"]["pixel"]
    expect(page.locator("#place")).to_have_text(f"at ({x}, {y})")
    page.locator("#query").click(position={"x": 5, "y": 5})
    expect(page.locator("#place")).to_have_text("at (0, 0)")
    page.get_by_role("button", name="Worst place").click()
    expect(page.locator("#place")).to_have_text(f"at ({x}, {y})")


def test_an_expired_result_is_explained(page: Page, service: str) -> None:
    give(opened(page, service), odd())
    expect_verdict(page, "Anomalous")
    page.route("**/match?*", lambda route: route.fulfill(status=404, json={"status": 404, "detail": "no such result"}))
    page.locator("#query").click(position={"x": 5, "y": 5})
    expect(page.locator("#match")).to_contain_text("Query again to look at more places")
    expect(page.locator("#neighbour")).to_be_hidden()


def test_a_cropped_place_is_explained(page: Page, service: str) -> None:
    give(opened(page, service, "cropped"), odd())
    expect_verdict(page, "No threshold")
    page.locator("#query").click(position={"x": 1, "y": 1})
    expect(page.locator("#match")).to_have_text("The backbone does not see this place: it is cropped away.")
    expect(page.locator("#neighbour")).to_be_hidden()
    page.keyboard.press("Home")
    expect(page.locator("#neighbour")).to_be_visible()


def test_a_format_that_browsers_cannot_decode_is_shown_as_the_service_decodes_it(page: Page, service: str) -> None:
    give(opened(page, service), as_file("scan.tif", encoded(random_image(3, SIZE), "TIFF")))
    expect_verdict(page, "Normal")
    expect(page.locator("#image")).to_have_js_property("naturalWidth", SIZE[0])


def test_the_orientation_of_a_photograph_applies_to_its_heat_map(page: Page, service: str) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be turned by 90 degrees
    photograph = encoded(random_image(3, (60, 30)), "JPEG", exif=turned.tobytes())
    give(opened(page, service), as_file("turned.jpg", photograph))
    expect(page.locator("#match")).to_contain_text("distance")
    box = page.locator("#query").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(30 / 60, rel=0.01)
    expect(page.locator("#heat")).to_have_js_property("naturalHeight", 60)
