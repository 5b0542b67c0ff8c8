"""The page in a browser: choosing a gallery, giving images, verdicts, the keyboard, small screens."""

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from helpers.browser import ANY_QUERY, expect_verdict, give, good, odd, opened


def test_an_image_gets_a_verdict_and_its_score(page: Page, service: str) -> None:
    opened(page, service)
    with page.expect_response(ANY_QUERY) as answered:
        give(page, odd())
    expect_verdict(page, "Anomalous")
    (result,) = answered.value.json()["results"]
    shown = page.locator("#score").inner_text().removeprefix("score ").replace(",", "")
    assert float(shown) == pytest.approx(result["score"], rel=1e-3)
    assert result["score"] > result["threshold"]
    expect(page.locator("#explained")).to_contain_text(re.compile(r"Looks worse than \d+ % of good parts"))
    expect(page.locator("#neighbours li")).to_have_count(len(result["neighbours"]))
    expect(page.locator("#neighbours")).to_contain_text(result["neighbours"][0]["id"])
    give(page, good())
    expect_verdict(page, "Normal")


def test_the_chosen_gallery_is_kept_in_the_address(page: Page, service: str) -> None:
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


def test_everything_works_with_the_keyboard_alone(page: Page, service: str) -> None:
    page.on("filechooser", lambda chooser: None)  # intercepted from now on, however soon it follows a key
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


@pytest.mark.parametrize("width", [320, 390, 768, 1920])
def test_the_page_fits_phones_and_large_screens(page: Page, service: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    give(opened(page, service), odd("a name that is rather long for a phone/" + "0123456789" * 8 + ".png"))
    expect_verdict(page, "Anomalous")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_unchanged_files_are_answered_with_304(service: str) -> None:
    types = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
    for name, media_type in types.items():
        answer = httpx.get(service + name)
        assert answer.headers["Content-Type"].startswith(media_type)
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        again = httpx.get(service + name, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
