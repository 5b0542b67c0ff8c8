"""The page of a service in a headless Chromium: fixtures, and what a user does on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .serving import Server
from .tiny import random_image
from .uploads import encoded
from .uploads import odd as odd_image

CHROMIUM = Path("/usr/bin/chromium-headless-shell")  # a tab of the whole browser costs eight times as much
QUIET = "--no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-quic"
SIZE = (40, 36)  # of the made images
KEY = "a-key-of-the-operators-screen"
EXPECTED = ("401", "404", "409", "422", "503")  # answers that the page explains; browsers log them as errors
ANY_QUERY = "**/query?*"

expect.set_options(timeout=30_000)

Given = dict[str, object]  # a file, as Playwright gives it to a page


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Start a headless Chromium, for all tests of the page: while it runs, no test can run an event loop of its own."""
    if not CHROMIUM.exists():
        pytest.fail(
            f"{CHROMIUM} is missing, which tests of the page need: run `apt-get install -y {CHROMIUM.name}` as root",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", *QUIET.split()]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """Open a new tab; afterwards, check that it requested no other origin and that nothing was logged as an error."""
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
    """Return the address of a service that needs no key."""
    return f"{shared_server.url}/"


def as_file(name: str, data: bytes) -> Given:
    """Return a file to choose on the page."""
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def good(name: str = "good.png") -> Given:
    """Return one of the images of the galleries."""
    return as_file(name, encoded(random_image(3, SIZE)))


def odd(name: str = "odd.png") -> Given:
    """Return an image unlike any in the galleries."""
    return as_file(name, odd_image())


def opened(page: Page, address: str, gallery: str = "calibrated") -> Page:
    """Open the page with a gallery chosen by the address."""
    page.goto(f"{address}#gallery={gallery}")
    expect(page.locator("#gallery")).to_have_value(gallery)
    return page


def give(page: Page, *files: Given) -> None:
    """Choose files on the page."""
    page.locator("#files").set_input_files(list(files))


def expect_verdict(page: Page, verdict: str) -> None:
    """Wait for the verdict on the selected image, and for its evidence."""
    expect(page.locator("#verdict")).to_have_text(verdict)
    if verdict not in ("Not judged", "Cancelled"):
        expect(page.locator("#match")).to_contain_text("distance")


def centre(page: Page, mark: str, picture: str, size: tuple[int, int]) -> tuple[float, float]:
    """Return the centre of a mark in pixels of the original picture, whose size is given."""
    inner, outer = page.locator(mark).bounding_box(), page.locator(picture).bounding_box()
    assert inner is not None
    assert outer is not None
    return (
        (inner["x"] + inner["width"] / 2 - outer["x"]) / outer["width"] * size[0],
        (inner["y"] + inner["height"] / 2 - outer["y"]) / outer["height"] * size[1],
    )
