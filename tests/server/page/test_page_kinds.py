"""The page in a browser: regions of an image get kinds of their own, or are left out as no defects."""

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect

from helpers.browser import ANY_QUERY, as_file, expect_verdict, give, odd, opened
from helpers.serving import Server
from helpers.uploads import parts, spotted

pytestmark = pytest.mark.usefixtures("decoding_here")
SAID = "**/feedback?*"
READER = "a-key-that-only-reads"


def spots(name: str = "spots.png") -> dict[str, object]:
    """Return an image with several regions."""
    return as_file(name, spotted())


def shown(page: Page, server: Server, *files: dict[str, object]) -> list[dict[str, object]]:
    """Give images to the page, the first with several regions, and open the control; return these regions."""
    with page.expect_response(ANY_QUERY) as answer:
        opened(page, f"{server.url}/")
        give(page, *(files or (spots(),)))
    expect_verdict(page, "Anomalous")
    page.get_by_text("A kind for each region").click()
    regions: list[dict[str, object]] = answer.value.json()["results"][0]["regions"]
    return regions


def kind(page: Page, place: int) -> Locator:
    return page.get_by_label(f"Kind of region {place}", exact=True)


def ticked(page: Page, place: int) -> Locator:
    return page.get_by_label(f"Region {place} is a defect", exact=True)


def box(region: dict[str, object]) -> str:
    """Return a region's box as a parameter."""
    return ",".join(f"{edge:g}" for edge in region["box"])  # type: ignore[attr-defined]


def options(request: Request) -> list[tuple[str, str]]:
    """Return the parameters of feedback that was sent, in order, but the empty ones."""
    return parse_qsl(urlsplit(request.url).query)


def say(page: Page, button: str = "These are the defects") -> list[tuple[str, str]]:
    """Say what the page shows; return what was sent, once that is noted."""
    with page.expect_request(SAID) as sent:
        page.get_by_role("button", name=button, exact=True).click()
    expect(page.locator("#said")).to_contain_text("calibrated knows this defect now")
    return options(sent.value)


def test_two_kinds_in_one_image_are_known_until_they_are_undone(page: Page, server: Server) -> None:
    first, second, *others = shown(page, server)
    for place, name in ((1, "a: b,c"), (2, " dent ")):
        kind(page, place).fill(name)
    for place, _ in enumerate(others, 3):
        ticked(page, place).uncheck()
        expect(kind(page, place)).to_be_disabled()
    expect(page.get_by_text("(2 with its own, 2 left out)")).to_be_visible()
    page.get_by_label("Why").fill("old press")
    expected = [
        ("verdict", "defect"),
        ("note", "old press"),
        ("box", f"{box(first)}:a: b,c"),
        ("box", f"{box(second)}:dent"),
    ]
    assert say(page) == expected
    expect(page.locator("#each")).to_be_hidden()
    page.get_by_role("button", name="Query again").click()
    expect(page.locator("#labels span").nth(1)).to_have_text("2 dent")
    expect(page.locator("#labels span").first).to_have_text("1 a: b,c")
    page.get_by_role("button", name="History").click()
    row = page.locator("#toldRows tr")
    expect(row.locator(".what")).to_have_text("defect (a: b,c, dent)")
    row.get_by_role("button").click()
    expect(row).to_contain_text("undone")
    assert server.query("calibrated", spotted(), maps="always")["regions"][0]["known_defect"] is None


def test_undo_offers_all_regions_again(page: Page, server: Server) -> None:
    shown(page, server)
    kind(page, 1).fill("dent")
    page.get_by_label("Kind of defect").fill("hole")
    say(page)
    assert server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"][0]["kinds"] == ["dent", "hole"]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#said")).to_have_text("calibrated does not know this defect any more.")
    assert server.query("calibrated", spotted(), maps="always")["regions"][0]["known_defect"] is None
    expect(kind(page, 1)).to_have_value("")
    expect(page.locator("#eachUsed")).to_be_empty()
    expect(page.get_by_label("Kind of defect")).to_have_value("")


def test_without_an_exception_nothing_is_sent_of_single_regions(page: Page, server: Server) -> None:
    shown(page, server)
    kind(page, 2).fill("dent")
    kind(page, 2).fill("  ")
    ticked(page, 3).uncheck()
    ticked(page, 3).check()
    page.get_by_label("Kind of defect").fill("hole")
    assert say(page, "This is a defect") == [("verdict", "defect"), ("kind", "hole")]


def test_a_region_that_is_left_out_is_not_sent_with_the_others(page: Page, server: Server) -> None:
    regions = shown(page, server)
    kind(page, 1).fill("dent")
    ticked(page, 1).uncheck()  # nor is its kind
    page.get_by_label("Kind of defect").fill("hole")
    page.get_by_text("A kind for each region").click()
    expect(page.get_by_text("(0 with its own, 1 left out)")).to_be_visible()  # what is sent is told when closed, too
    boxes = [("box", box(region)) for region in regions[1:]]
    assert say(page, "This is a defect") == [("verdict", "defect"), ("kind", "hole"), *boxes]


def test_what_is_missing_is_named_and_has_the_focus(page: Page, server: Server) -> None:
    regions = shown(page, server)
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if "/feedback?" in request.url else None)
    said, defect = page.locator("#said"), page.get_by_role("button", name="This is a defect")
    defect.click()
    expect(said).to_have_text("Name the kind of the defect first.")
    expect(page.get_by_label("Kind of defect")).to_be_focused()
    ticked(page, 1).uncheck()
    kind(page, 3).fill("dent")
    page.get_by_text("A kind for each region").click()
    defect.click()
    expect(said).to_have_text("Name the kind of region 2 first, or one for all.")
    expect(kind(page, 2)).to_be_focused()
    for place, _ in enumerate(regions, 1):
        ticked(page, place).uncheck()
    page.get_by_label("Kind of defect").fill("hole")
    page.get_by_role("button", name="These are the defects").click()
    expect(said).to_contain_text("No region is ticked.")
    expect(ticked(page, 1)).to_be_focused()
    assert sent == []


def test_kinds_of_regions_belong_to_their_image(page: Page, server: Server) -> None:
    shown(page, server, spots(), as_file("other.png", spotted(3)), odd())
    expect(page.locator("#progress")).to_have_text("3 of 3 judged, 3 anomalous")
    row = page.locator(".row")
    kind(page, 1).fill("dent")
    row.nth(1).click()
    expect(page.locator("#name")).to_have_text("other.png")
    expect(kind(page, 1)).to_have_value("")
    kind(page, 1).fill("scratch")
    kind(page, 2).fill("hole")
    row.nth(2).click()  # of one region
    expect(page.get_by_role("button", name="This is a defect")).to_be_visible()
    expect(page.locator("#each")).to_be_hidden()
    row.first.click()
    expect(kind(page, 1)).to_have_value("dent")
    expect(kind(page, 2)).to_have_value("")
    held: list[Route] = []
    page.route(SAID, lambda route: held.append(route))
    page.get_by_label("Kind of defect").fill("spot")
    page.get_by_role("button", name="These are the defects").click()
    expect(page.locator("#said")).to_have_text("calibrated gets to know the defect.")
    expect(kind(page, 1)).to_be_disabled()
    row.nth(1).click()
    expect(kind(page, 1)).to_have_value("scratch")
    held[0].continue_()
    page.unroute(SAID)
    row.first.click()
    expect(page.locator("#said")).to_contain_text("calibrated knows this defect now")
    row.nth(1).click()
    expect(kind(page, 2)).to_have_value("hole")
    (told,) = server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"]
    assert (told["id"].rpartition("/")[2], told["kinds"]) == ("spots.png", ["dent", "spot"])


def test_a_refusal_keeps_what_was_said_of_regions(page: Page, server: Server) -> None:
    shown(page, server)
    kind(page, 1).fill("dent")
    page.get_by_label("Kind of defect").fill("hole")
    page.route(SAID, lambda route: route.fulfill(status=409, json={"detail": "no"}), times=1)
    page.get_by_role("button", name="These are the defects").click()
    expect(page.locator("#said")).to_have_text("No.")
    expect(kind(page, 1)).to_have_value("dent")
    expect(kind(page, 1)).to_be_enabled()
    page.get_by_role("button", name="Query again").click()
    expect_verdict(page, "Anomalous")
    expect(kind(page, 1)).to_have_value("")  # its regions may be others


def test_keys_alone_name_regions(page: Page, server: Server) -> None:
    opened(page, f"{server.url}/")
    give(page, spots())
    expect_verdict(page, "Anomalous")
    labels, place = page.locator("#labels span"), page.locator("#place")
    expect(labels).to_have_count(0)
    expect(page.locator("#each summary")).to_be_visible()
    page.get_by_label("Why").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#each summary")).to_be_focused()
    page.keyboard.press("Enter")
    expect(labels).to_have_text(["1", "2", "3", "4"])
    before = place.text_content()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Region 1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(place).not_to_have_text(before or "")
    page.keyboard.press("Tab")
    page.keyboard.type("dent")
    for key in ("Tab", "Tab", "Tab", "Tab", "Space"):
        page.keyboard.press(key)
    expect(kind(page, 1)).to_have_value("dent")
    expect(ticked(page, 2)).not_to_be_checked()
    page.get_by_text("A kind for each region").click()
    expect(labels).to_have_count(0)
    page.emulate_media(media="print")
    expect(page.locator("#each")).to_be_hidden()


def test_of_more_than_ten_regions_the_first_ten_are_listed(page: Page, server: Server) -> None:
    def with_twelve(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        (result,) = told["results"]
        worst = result["regions"][0]
        result["regions"] = [{**worst, "box": [3 * number, 2.5 * number, 3.2, 4]} for number in range(12)]
        route.fulfill(response=answer, json=told)

    page.route(ANY_QUERY, with_twelve)
    shown(page, server)
    expect(page.get_by_text("Of 12 regions, the 10 with the highest scores are listed")).to_be_visible()
    expect(page.locator("#labels span")).to_have_text([str(place) for place in range(1, 11)])
    page.set_viewport_size({"width": 390, "height": 844})  # of a phone
    page.get_by_role("button", name="Region 10").click()
    expect(page.locator("#place")).to_have_text("at (28, 24)")
    expect(page.locator("#query")).to_be_in_viewport(ratio=0.99)
    for place in range(1, 11):
        kind(page, place).fill(f"kind {place}")
    sent = say(page)
    assert sent[-1] == ("box", "27,22.5,3.2,4:kind 10")
    assert [name for name, _ in sent] == ["verdict", *["box"] * 10]
    (told,) = server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"]
    assert told["kinds"] == [f"kind {place}" for place in range(1, 11)]


def test_a_region_has_one_number_wherever_it_is_told(page: Page, server: Server) -> None:
    def without_the_first(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told["results"][0]["regions"][0]["known_defect"] = None  # nothing of it is searched
        route.fulfill(response=answer, json=told)

    files, path = parts(("a.png", spotted())), "/v1/galleries/calibrated/feedback?verdict=defect&kind=hole"
    server.finished(server.http.post(path, files=files).json()["id"])
    page.route(ANY_QUERY, without_the_first)
    shown(page, server)
    expect(page.locator("#labels span")).to_have_text(["1", "2 hole", "3 hole", "4 hole"])
    expect(page.locator("#alikes button")).to_have_text(["Region 2", "Region 3", "Region 4"])


def test_a_key_that_only_reads_is_not_asked_for_kinds(page: Page, serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{READER} calibrated read")
    page.goto(server.url)
    page.get_by_label("Key", exact=True).fill(READER)
    page.keyboard.press("Enter")
    expect(page.locator("#facts")).to_contain_text("12 images")
    with page.expect_response("**/galleries/calibrated"):
        give(page, spots())
    expect_verdict(page, "Anomalous")
    expect(page.locator("#each")).to_be_hidden()
