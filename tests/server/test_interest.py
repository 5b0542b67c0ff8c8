"""A gallery with a region of interest over HTTP: described, scored inside, drawn dimmed outside."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.interest import RegionOfInterest
from spade_index.method.judgement import carry_on
from spade_index.method.tuned import tuned_search

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png, random_image

pytestmark = pytest.mark.usefixtures("decoding_here")


def left_half(path: Path, *, calibrate: bool = True) -> RegionOfInterest:
    """Let the left half of a gallery's pictures count, and calibrate it for that."""
    mask = np.zeros((2, 2), bool)
    mask[:, 0] = True
    region = RegionOfInterest(mask, "mask left.png")
    with GalleryWriter(path) as writer:
        writer.set_interest(region)
        if calibrate:
            carry_on(writer, tuned_search(writer.gallery), false_alarms=0.1)
    return region


def spotted(x: int) -> bytes:
    """Return the PNG file of a normal image with a bright spot at a column."""
    image = random_image(3)
    image.paste("white", (x, 12, x + 8, 20))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def server(serve: Callable[..., Server], root: Path) -> Server:
    left_half(root / "plain")
    return serve()


def test_a_gallery_says_that_it_has_a_region_of_interest(server: Server, root: Path) -> None:
    told = server.http.get("/v1/galleries/plain").json()
    with Gallery(root / "plain") as gallery:
        assert gallery.interest is not None
        expected = {"source": "mask left.png", "area": 0.5, "digest": gallery.interest.digest}
    assert told["region_of_interest"] == expected
    assert set(told["thresholds"]) == {"pooled", "map", "both"}
    assert server.http.get("/v1/galleries/other").json()["region_of_interest"] is None
    summary = {one["name"]: one["calibrated"] for one in server.http.get("/v1/galleries").json()["galleries"]}
    assert summary["plain"] is True
    listed = server.http.get("/v1/galleries").json()["galleries"]
    assert {one["name"] for one in listed if one["region_of_interest"]} == {"plain"}


def test_a_defect_outside_is_not_called_and_one_inside_is(server: Server) -> None:
    plain, inside, outside = (server.query("plain", data) for data in (png(3), spotted(4), spotted(30)))
    assert {found["kind"] for found in (plain, inside, outside)} == {"map"}
    assert inside["anomalous"]
    assert not outside["anomalous"]
    assert inside["p_value"] < outside["p_value"]
    assert plain["score"] == outside["score"]
    assert outside["regions"] == []
    assert inside["evidence"]["pixel"][0] < 20
    assert all(region["box"][0] + region["box"][2] <= 21 for region in inside["regions"])


def test_what_is_outside_is_dimmed_and_has_no_match(server: Server) -> None:
    found = server.query("plain", spotted(4))
    links = found["score_map"]
    heat = np.asarray(Image.open(io.BytesIO(server.http.get(links["heat"]).content)))
    assert (heat[:, 24:] == (0, 0, 0, 89)).all()
    assert (heat[:, :16, :3] > 0).any(2).all()
    scores = np.load(io.BytesIO(server.http.get(links["npy"]).content))
    assert scores[:, 16:].max() <= scores[:, :16].min()
    assert server.http.get(links["match"], params={"x": 5, "y": 14}).json()["neighbour_pixel"][0] < 20
    told = problem(server.http.get(links["match"], params={"x": 34, "y": 14}), 422, "x")
    assert "outside of the region of interest" in told["detail"]


@pytest.mark.parametrize("maps", ["never", "auto"])
def test_scores_of_whole_images_are_refused(server: Server, maps: str) -> None:
    answer = server.http.post("/v1/galleries/plain/query", content=png(3), params={"maps": maps, "threshold": 1})
    assert "region of interest" in answer.json()["detail"]
    assert answer.status_code in (409, 422)


def test_a_region_that_is_set_while_serving_counts_from_the_next_image(
    serve: Callable[..., Server], root: Path
) -> None:
    server = serve()
    before = server.query("other", spotted(30))["score"]
    left_half(root / "other", calibrate=False)
    after = server.query("other", spotted(30))
    assert after["score"] < before
    assert after["p_value"] is None
    with GalleryWriter(root / "other") as writer:
        writer.set_interest(None)
    assert server.query("other", spotted(30))["score"] == before


def test_an_audit_is_of_what_is_inside(server: Server) -> None:
    told = server.http.get("/v1/galleries/plain/audit").json()
    assert told["kind"] == "map"
    heat = np.asarray(Image.open(io.BytesIO(server.http.get(told["odd"][0]["heat"]).content)))
    assert (heat[:, heat.shape[1] * 5 // 8 :] == (0, 0, 0, 89)).all()


def test_an_image_of_which_nothing_counts_is_named(serve: Callable[..., Server], root: Path) -> None:
    """The backbone sees the middle of images; of a wide one, that is outside of the region."""
    mask = np.zeros((1, 10), bool)
    mask[0, :3] = True
    with GalleryWriter(root / "cropped") as writer:
        writer.set_interest(RegionOfInterest(mask, "test"))
    server = serve()
    assert server.query("cropped", png(3))["score"] > 0
    wide = io.BytesIO()
    random_image(1, (120, 36)).save(wide, "PNG")
    answer = server.http.post("/v1/galleries/cropped/query", content=wide.getvalue())
    assert answer.status_code in (400, 422)
    assert "nothing that the backbone sees of it is inside" in answer.json()["detail"]


def test_a_query_without_a_mask_says_that_all_of_it_is_searched(serve: Callable[..., Server], root: Path) -> None:
    mask = RegionOfInterest(np.array([[True, False]]), "mask").packed
    with GalleryWriter(root / "plain") as writer:
        writer.set_region_rule("masks/{stem}.png", {row.key: mask for row in writer.gallery.images()})
    server = serve()
    found = server.query("plain", spotted(30))
    assert "all of it is searched" in found["notice"]
    assert found["kind"] == "map"
    assert server.http.get("/v1/galleries/plain").json()["region_of_interest"]["area"] is None
    assert server.query("other", png(3))["notice"] is None


def test_a_job_says_once_that_its_images_count_whole(serve: Callable[..., Server], root: Path) -> None:
    mask = RegionOfInterest(np.array([[True, False]]), "mask").packed
    with GalleryWriter(root / "plain") as writer:
        writer.set_region_rule("masks/{stem}.png", {row.key: mask for row in writer.gallery.images()})
    server = serve()

    def notices(gallery: str) -> list[str]:
        files = [("images", (f"{number}.png", png(number))) for number in (80, 81, 82)]
        sent = server.http.post(f"/v1/galleries/{gallery}/images", files=files)
        return list(server.finished(sent.json()["id"])["notices"])

    (notice,) = notices("plain")
    assert "count whole" in notice
    assert "masks/{stem}.png" in notice
    assert notices("other") == []
