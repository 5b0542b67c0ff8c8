"""The page in a browser: an image that was called anomalous is fine, and is normal until that is undone."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.calibration import calibrate, store
from spade_index.settings import SearchSettings

from helpers.browser import as_file, expect_verdict, give, odd, opened
from helpers.serving import Server
from helpers.tiny import build, png, tiny_backbone, write_images
from helpers.uploads import odd as odd_image
from helpers.uploads import parts

READER, WRITER = "a-key-that-only-reads", "a-key-that-may-write"


@pytest.fixture
def tiles(root: Path, tmp_path: Path) -> Path:
    """A root with a calibrated gallery `tiles` of 60 small tiles."""
    build(root / "tiles", write_images(tmp_path / "images", 60), tiny_backbone())
    with Gallery(root / "tiles") as gallery:
        found = calibrate(gallery, SearchSettings(), false_alarms=0.1, device="cpu")
    with GalleryWriter(root / "tiles") as writer:
        store(writer, SearchSettings(), found)
    return root


def query_again(page: Page, verdict: str) -> None:
    page.get_by_role("button", name="Query again").click()
    expect_verdict(page, verdict)


def test_a_false_alarm_is_corrected_by_a_button_and_undone(
    page: Page, serve: Callable[..., Server], tiles: Path
) -> None:
    server = serve(root=tiles)
    opened(page, f"{server.url}/", "tiles")
    give(page, odd())
    expect_verdict(page, "Anomalous")
    page.get_by_label("Why").fill("a new supplier")
    page.get_by_role("button", name="This one is fine").click()
    expect(page.locator("#previewWords")).to_have_text(
        "If it becomes a normal image of tiles, the last verdict would change: this image's."
    )
    page.get_by_role("button", name="Add it").click()
    expect(page.locator("#said")).to_contain_text("It is a normal image of tiles now.")
    expect(page.get_by_role("button", name="This one is fine")).to_be_hidden()
    (row,) = server.http.get("/v1/galleries/tiles/feedback").json()["feedback"]
    assert (row["note"], row["there"], row["id"].rpartition("/")[2]) == ("a new supplier", True, "odd.png")
    query_again(page, "Normal")
    expect(page.locator("#neighbours")).to_contain_text(row["id"])
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#said")).to_contain_text("It is no normal image of tiles any more.")
    assert server.http.get("/v1/galleries/tiles").json()["images"] == 60
    query_again(page, "Anomalous")
    expect(page.get_by_role("button", name="Undo")).to_be_hidden()
    expect(page.get_by_role("button", name="This one is fine")).to_be_visible()


def test_what_would_change_is_shown_first_and_can_be_left(page: Page, serve: Callable[..., Server]) -> None:
    server = serve()
    opened(page, f"{server.url}/")
    give(page, odd("the same part.png"), as_file("odd.png", odd_image(shade=250)))
    expect(page.locator("#progress")).to_have_text("2 of 2 judged, 2 anomalous")
    page.get_by_role("button", name="This one is fine").click()
    expect(page.locator("#previewWords")).to_contain_text("2 of the last 2 verdicts would change, this image's among")
    change = page.locator("#previewed li")
    expect(change).to_have_count(1)
    expect(change).to_contain_text("odd.png")
    expect(change).to_contain_text("Anomalous now, Normal then")
    change.get_by_role("button", name="Image odd.png").click()
    looked = page.get_by_role("dialog", name="odd.png")
    expect(looked.get_by_role("img")).not_to_have_js_property("naturalWidth", 0)
    row = server.query("calibrated", odd_image(shade=250), maps="always")
    assert row["anomalous"]
    score = re.escape(f"{row['score']:,.4g}")
    expect(looked.locator(".before")).to_have_text(re.compile(rf"Anomalous score {score}, threshold \S+"))
    expect(looked.locator(".after")).to_have_text(re.compile(r"Normal score \S+, threshold \S+"))
    looked.get_by_role("button", name="Close").click()
    expect(looked).to_be_hidden()
    page.get_by_role("button", name="Cancel").click()
    expect(change).to_be_hidden()
    expect(page.get_by_role("button", name="This one is fine")).to_be_visible()
    assert server.http.get("/v1/galleries/calibrated/feedback").json()["found"] == 0


def test_a_named_defect_is_shown_at_regions_that_are_like_it(page: Page, serve: Callable[..., Server]) -> None:
    server = serve()
    opened(page, f"{server.url}/")
    give(page, odd())
    expect_verdict(page, "Anomalous")
    expect(page.locator("#known")).to_be_hidden()
    name, kind = page.get_by_role("button", name="This is a defect"), page.get_by_label("Kind of defect")
    name.click()
    expect(page.locator("#said")).to_have_text("Name the kind of the defect first.")
    for hostile in ("<img src=x onerror=alert(1)>", "scratch"):
        kind.fill(hostile)
        name.click()
        expect(page.locator("#said")).to_contain_text("calibrated knows this defect now")
        query_again(page, "Anomalous")
        expect(page.locator("#alikes .name").first).to_have_text(f"most like: “{hostile}”, seen once")
        expect(page.locator("#labels span").first).to_have_text(f"1 {hostile}")
        expect(page.get_by_alt_text(f"Known defect: {hostile}").first).not_to_have_js_property("naturalWidth", 0)
        page.get_by_role("button", name="Region 1").click()
        row = server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"][0]
        assert (row["verdict"], row["kind"], row["there"]) == ("defect", hostile, True)
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("#said")).to_have_text("calibrated does not know this defect any more.")
    query_again(page, "Anomalous")
    expect(page.locator("#known")).to_be_hidden()
    expect(page.locator("#labels span")).to_have_count(0)


def test_a_missed_defect_is_where_the_cursor_is(page: Page, serve: Callable[..., Server], root: Path) -> None:
    server = serve()
    opened(page, f"{server.url}/")
    give(page, as_file("new.png", png(77)))
    expect_verdict(page, "Normal")
    expect(page.get_by_role("button", name="This one is fine")).to_be_hidden()
    page.locator("#query").click(position={"x": 5, "y": 5})
    expect(page.locator("#place")).to_have_text("at (0, 0)")
    page.get_by_role("button", name="A defect at the cursor was missed").click()
    expect(page.locator("#said")).to_contain_text("calibrated knows this defect now")
    with Gallery(root / "calibrated") as gallery:
        (known,) = gallery.catalog.known_defects(gallery.catalog.channels)
    assert (known.place.found, known.place.box) == ("box", (0, 0, 2, 2))
    (row,) = server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"]
    assert (row["verdict"], row["kind"]) == ("missed", "")
    assert server.http.get("/v1/galleries/calibrated").json()["images"] == 12


def test_only_a_key_that_may_write_is_offered_the_button(page: Page, serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{READER} calibrated read; {WRITER} calibrated write")
    for key, buttons in ((READER, 0), (WRITER, 1)):
        page.goto(server.url)
        if key == WRITER:
            page.get_by_role("button", name="API key…").click()
        page.get_by_label("Key", exact=True).fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#facts")).to_contain_text("12 images")
        with page.expect_response("**/galleries/calibrated"):
            give(page, odd())
        expect_verdict(page, "Anomalous")
        expect(page.locator("#fine:visible")).to_have_count(buttons)
        expect(page.locator("#defect:visible")).to_have_count(buttons)


def test_the_history_is_looked_through_saved_and_undone(page: Page, server: Server) -> None:
    for number, note in enumerate(("a shadow", "dust")):
        job = server.http.post(
            "/v1/galleries/calibrated/feedback",
            params={"note": note},
            files=parts((f"part {number}.png", png(200 + number))),
        )
        server.finished(job.json()["id"])
    opened(page, f"{server.url}/")
    page.get_by_role("button", name="History").click()
    rows = page.locator("#toldRows tr")
    expect(rows.locator(".name")).to_have_text(["part 1.png", "part 0.png"])
    expect(page.locator("#drop")).to_be_hidden()
    page.get_by_label("Find").fill("SHADOW")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("anonymous")
    expect(rows.first).to_contain_text("false alarm")
    page.get_by_label("Said").select_option("missed")
    expect(rows).to_have_count(0)
    page.get_by_label("Said").select_option("false alarm")
    page.get_by_label("Until (UTC)").fill("2020-02-29")
    expect(rows).to_have_count(0)
    page.get_by_label("Until (UTC)").fill("9999-12-31")
    page.get_by_label("State").select_option("in the gallery")
    expect(rows).to_have_count(1)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    assert saved.value.suggested_filename == "feedback-calibrated.csv"
    table = saved.value.path().read_text().splitlines()
    assert (len(table), table[1].endswith(",True,a shadow,")) == (2, True)
    page.get_by_label("State").select_option("any")
    rows.first.get_by_role("button").click()
    expect(rows.first).to_contain_text("undone")
    expect(rows.first.get_by_role("button")).to_be_hidden()
    assert server.http.get("/v1/galleries/calibrated").json()["images"] == 13
    page.get_by_role("button", name="Audit").click()
    expect(rows).to_have_count(0)
    page.get_by_role("button", name="Audit").click()
    expect(page.locator("#drop")).to_be_visible()
