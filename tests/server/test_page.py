"""The page, as people use it: in a real Chromium, with the real service behind it."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from helpers.serving import Server
from helpers.tiny import random_image
from helpers.uploads import encoded
from helpers.uploads import odd as odd_image

CHROMIUM = Path("/usr/bin/chromium")
QUIET = "--no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-quic"
SIZE = (40, 36)  # of the made images
KEY = "a-key-of-the-operators-screen"
EXPECTED = ("401", "404", "422", "503")  # answers that the page is there to explain; browsers log them as errors
ANY_QUERY = "**/query?*"

expect.set_options(timeout=30_000)

Given = dict[str, object]  # a file, as Playwright gives it to a page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    if not CHROMIUM.exists():
        pytest.fail(
            f"there is no {CHROMIUM} to test the page in: run `apt-get install -y chromium` as root", pytrace=False
        )
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", *QUIET.split()]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A new tab. Afterwards: nothing was asked of any other place, and nothing complained."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    asked: set[str] = set()
    complaints: list[str] = []
    page.on("request", lambda request: asked.add(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    yield page
    here = page.url.partition("#")[0]
    assert [url for url in asked if not url.startswith((here, f"blob:{here}"))] == []
    refused = [f"Failed to load resource: the server responded with a status of {status}" for status in EXPECTED]
    assert [line for line in complaints if not line.startswith(tuple(refused))] == []
    context.close()


@pytest.fixture
def service(shared_server: Server) -> str:
    """The address of a service that asks for no key."""
    return f"{shared_server.url}/"


def as_file(name: str, data: bytes) -> Given:
    """A file that is given to the page."""
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def good(name: str = "good.png") -> Given:
    """One of the galleries' own images."""
    return as_file(name, encoded(random_image(3, SIZE)))


def odd(name: str = "odd.png") -> Given:
    """An image unlike any in the galleries."""
    return as_file(name, odd_image())


def opened(page: Page, address: str, gallery: str = "calibrated") -> Page:
    """The page, with a gallery picked by the address."""
    page.goto(f"{address}#gallery={gallery}")
    expect(page.get_by_label("Gallery")).to_have_value(gallery)
    return page


def give(page: Page, *files: Given) -> None:
    """Choose files on the page."""
    page.locator("#files").set_input_files(list(files))


def expect_verdict(page: Page, verdict: str) -> None:
    """Of the image that is looked at; with everything that belongs to it."""
    expect(page.locator("#verdict")).to_have_text(verdict)
    if verdict not in ("Not judged", "Cancelled"):
        expect(page.locator("#match")).to_contain_text("distance")


def centre(page: Page, mark: str, picture: str, size: tuple[int, int]) -> tuple[float, float]:
    """Where the centre of a mark is, in pixels of the picture's original of this size."""
    inner, outer = page.locator(mark).bounding_box(), page.locator(picture).bounding_box()
    assert inner is not None
    assert outer is not None
    return (
        (inner["x"] + inner["width"] / 2 - outer["x"]) / outer["width"] * size[0],
        (inner["y"] + inner["height"] / 2 - outer["y"]) / outer["height"] * size[1],
    )


def test_an_image_gets_a_verdict_with_its_score_against_the_threshold(page: Page, service: str) -> None:
    opened(page, service)
    with page.expect_response(ANY_QUERY) as answered:
        give(page, odd())
    expect_verdict(page, "Anomalous")
    (result,) = answered.value.json()["results"]
    shown = page.locator("#score").inner_text().removeprefix("score ").replace(",", "")
    assert float(shown) == pytest.approx(result["score"], rel=1e-3)
    assert result["score"] > result["threshold"]
    expect(page.locator("#explained")).to_contain_text("of the threshold")
    expect(page.locator("#neighbours li")).to_have_count(len(result["neighbours"]))
    expect(page.locator("#neighbours")).to_contain_text(result["neighbours"][0]["id"])
    give(page, good())
    expect_verdict(page, "Normal")


def test_the_gallery_is_picked_from_a_list_and_kept_in_the_address(page: Page, service: str) -> None:
    page.goto(service)
    expect(page.locator("#facts")).to_contain_text("12 images")
    page.get_by_label("Gallery").select_option("plain")
    assert page.url.endswith("#gallery=plain")
    expect(page.locator("#facts")).to_contain_text("no threshold yet")
    give(page, odd())
    expect_verdict(page, "No threshold")
    expect(page.locator("#explained")).to_contain_text("spade-index calibrate")
    page.goto(f"{service}#gallery=elsewhere")
    expect(page.get_by_role("alert")).to_have_text("There is no gallery “elsewhere” here. Pick one from the list.")


def test_the_slider_changes_how_much_of_the_heat_map_is_seen(page: Page, service: str) -> None:
    give(opened(page, service), odd())
    expect_verdict(page, "Anomalous")
    heat = page.locator("#heat")
    assert heat.bounding_box() == page.locator("#image").bounding_box()
    expect(heat).not_to_have_js_property("naturalWidth", 0)
    for percent in (0, 25, 100):
        page.get_by_label("Heat map").fill(str(percent))
        expect(heat).to_have_css("opacity", f"{percent / 100:g}")


def test_a_click_shows_the_normal_place_that_was_matched(page: Page, service: str) -> None:
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


def test_the_cursor_starts_at_the_worst_place_and_goes_back_to_it(page: Page, service: str) -> None:
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


def test_all_of_it_works_with_the_keyboard_alone(page: Page, service: str) -> None:
    page.on("filechooser", lambda chooser: None)  # from now on it is seen, however soon it comes after a key
    page.goto(service)
    expect(page.locator("#facts")).not_to_be_empty()

    def tab_to(id: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id || document.activeElement.name") == id:
                return
        pytest.fail(f"Tab never reaches {id}")

    tab_to("gallery")
    page.keyboard.press("End")
    page.keyboard.type("cal")
    expect(page.get_by_label("Gallery")).to_have_value("calibrated")
    tab_to("files")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([odd("first.png"), good("second.png")])
    expect(page.locator("#progress")).to_have_text("2 of 2 judged, 1 anomalous")
    tab_to("shown")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#name")).to_have_text("second.png")
    expect_verdict(page, "Normal")
    tab_to("query")
    page.keyboard.press("Home")
    for _ in range(9):
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press("Shift+ArrowUp")
    expect(page.locator("#place")).to_have_text("at (0, 0)")
    with page.expect_response("**/match?x=2&y=1") as answered:
        for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
    expect(page.locator("#matchedName")).to_have_text(answered.value.json()["neighbour"])
    tab_to("opacity")
    page.keyboard.press("End")
    expect(page.locator("#heat")).to_have_css("opacity", "1")


def test_several_images_are_listed_with_their_verdicts(page: Page, service: str) -> None:
    opened(page, service)
    give(page, odd("a.png"), good("b.png"), odd("c.png"))
    give(page, good("d.png"))
    verdicts = page.locator(".row .verdict")
    expect(verdicts).to_have_text(["Anomalous", "Normal", "Anomalous", "Normal"])
    page.get_by_text("c.png").click()
    expect(page.locator("#name")).to_have_text("c.png")
    expect_verdict(page, "Anomalous")
    page.get_by_role("button", name="Clear").click()
    expect(verdicts).to_have_count(0)
    expect(page.locator("#shown")).to_be_hidden()


@pytest.mark.parametrize(("event", "carrier"), [("DragEvent", "dataTransfer"), ("ClipboardEvent", "clipboardData")])
def test_images_can_be_dropped_and_pasted(page: Page, service: str, event: str, carrier: str) -> None:
    opened(page, service)
    data = list(good()["buffer"])  # type: ignore[call-overload]
    page.evaluate(
        """([event, carrier, data]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(data)], "given.png", { type: "image/png" }));
            const options = { [carrier]: files, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new window[event](event === "DragEvent" ? "drop" : "paste", options));
        }""",
        [event, carrier, data],
    )
    expect(page.locator("#name")).to_have_text("given.png")
    expect_verdict(page, "Normal")


def test_a_file_that_is_no_image_is_explained(page: Page, service: str) -> None:
    give(opened(page, service), {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"}, good())
    expect_verdict(page, "Not judged")
    expect(page.locator("#explained")).to_contain_text("cannot be decoded")
    expect(page.locator("#explained")).to_contain_text("Use a JPEG or PNG image")
    expect(page.locator(".row .verdict")).to_have_text(["Not judged", "Normal"])  # the others are not held up


def test_a_file_that_is_too_large_is_not_even_sent(page: Page, service: str) -> None:
    page.route("**/v1", lambda route: route.fulfill(json={"limits": {"body_bytes": 2**20}}))
    opened(page, service)
    give(page, {"name": "large.png", "mimeType": "image/png", "buffer": bytes(3 * 2**20)})
    expect_verdict(page, "Not judged")
    expect(page.locator("#explained")).to_have_text(
        "It has 3 MiB, the service takes 1 MiB at most. Use a smaller image."
    )


def test_a_busy_service_is_asked_again(page: Page, service: str) -> None:
    asked = []

    def busy_once(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) > 1:
            route.continue_()
            return
        problem = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "the queue is full"}
        headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
        route.fulfill(status=503, headers=headers, body=json.dumps(problem))

    opened(page, service)
    page.route(ANY_QUERY, busy_once)
    give(page, odd())
    expect(page.locator("#explained")).to_have_text("The queue is full. It is asked again after 1 s.")
    expect_verdict(page, "Anomalous")
    assert len(asked) == 2
    assert asked[1] - asked[0] > 0.9  # not sooner than it was told


def test_a_query_under_way_can_be_cancelled_and_asked_again(page: Page, service: str) -> None:
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


def test_a_result_that_was_let_go_is_explained(page: Page, service: str) -> None:
    give(opened(page, service), odd())
    expect_verdict(page, "Anomalous")
    page.route("**/match?*", lambda route: route.fulfill(status=404, json={"status": 404, "detail": "no such result"}))
    page.locator("#query").click(position={"x": 5, "y": 5})
    expect(page.locator("#match")).to_contain_text("Query again to look at more places")
    expect(page.locator("#neighbour")).to_be_hidden()


def test_a_place_that_the_backbone_does_not_see_is_explained(page: Page, service: str) -> None:
    give(opened(page, service, "cropped"), odd())
    expect_verdict(page, "No threshold")
    page.locator("#query").click(position={"x": 1, "y": 1})
    expect(page.locator("#match")).to_have_text("The backbone does not see this place: it is cropped away.")
    expect(page.locator("#neighbour")).to_be_hidden()
    page.keyboard.press("Home")
    expect(page.locator("#neighbour")).to_be_visible()


def test_an_api_key_is_asked_for_and_kept_for_the_tab(page: Page, serve: Callable[..., Server]) -> None:
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


def test_an_image_that_only_the_service_can_read_is_shown_as_it_reads_it(page: Page, service: str) -> None:
    give(opened(page, service), as_file("scan.tif", encoded(random_image(3, SIZE), "TIFF")))
    expect_verdict(page, "Normal")
    expect(page.locator("#image")).to_have_js_property("naturalWidth", SIZE[0])


def test_a_photograph_taken_upright_is_shown_upright_under_its_heat_map(page: Page, service: str) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be turned by 90 degrees
    photograph = encoded(random_image(3, (60, 30)), "JPEG", exif=turned.tobytes())
    give(opened(page, service), as_file("turned.jpg", photograph))
    expect(page.locator("#match")).to_contain_text("distance")
    box = page.locator("#query").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(30 / 60, rel=0.01)
    expect(page.locator("#heat")).to_have_js_property("naturalHeight", 60)


@pytest.mark.parametrize("width", [320, 390, 768, 1920])
def test_it_fits_phones_and_large_screens(page: Page, service: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    give(opened(page, service), odd("a name that is rather long for a phone/" + "0123456789" * 8 + ".png"))
    expect_verdict(page, "Anomalous")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_files_are_asked_for_again_only_where_they_changed(service: str) -> None:
    types = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
    for name, media_type in types.items():
        answer = httpx.get(service + name)
        assert answer.headers["Content-Type"].startswith(media_type)
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        again = httpx.get(service + name, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
