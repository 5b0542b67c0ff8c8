"""The service reads pixels by the range that a gallery records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images

from helpers.deep import png16, scaled, write
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png, random_image, tiny_backbone, write_images
from helpers.uploads import encoded

pytestmark = pytest.mark.usefixtures("decoding_here")


@pytest.fixture
def twelve(root: Path, tmp_path: Path) -> str:
    """A gallery `eight`, and one of the same images in 12 bits."""
    backbone = tiny_backbone()
    for number in range(12):
        write(tmp_path / "deep" / f"{number:03d}.png", scaled(np.asarray(random_image(number)), 12))
    plain = write_images(tmp_path / "plain", 12)
    own = backbone.settings
    deep = replace(own, preprocessing=replace(own.preprocessing, bits=12))
    for name, images, settings in (("eight", plain, own), ("twelve", tmp_path / "deep", deep)):
        with GalleryWriter(root / name, settings) as writer:
            writer.add(find_images(images), backbone)
    return "twelve"


def test_an_image_of_12_bits_has_the_scores_and_pictures_of_8(twelve: str, server: Server) -> None:
    plain = server.query("eight", png(70))
    deep = server.query(twelve, png16(scaled(np.asarray(random_image(70)), 12)))
    assert deep["scores"] == plain["scores"]
    overlays = [server.http.get(told["score_map"]["overlay"]).content for told in (deep, plain)]
    assert overlays[0] == overlays[1]
    shown = server.http.get(f"/v1/galleries/{twelve}/thumbnail", params={"id": "003.png"})
    other = server.http.get("/v1/galleries/eight/thumbnail", params={"id": "003.png"})
    assert shown.content == other.content


def test_an_image_beyond_the_range_is_named(twelve: str, server: Server) -> None:
    data = png16(scaled(np.asarray(random_image(70)), 16))
    answer = server.http.post(f"/v1/galleries/{twelve}/query", content=data, params={"name": "x.png"})
    problem(answer, 422, "images[0]")
    assert answer.json()["detail"].startswith("x.png: ")
    assert "12 bits" in answer.json()["detail"]


def test_a_job_names_images_of_another_range(twelve: str, server: Server) -> None:
    values = scaled(np.asarray(random_image(70)), 14)
    files = [("images", ("x.png", png16(values)))]
    told = server.finished(server.http.post(f"/v1/galleries/{twelve}/images", files=files).json()["id"])
    (notice,) = told["notices"]
    assert "--bits 14" in notice


def test_a_result_says_what_is_odd_about_its_image(twelve: str, server: Server) -> None:
    assert server.query(twelve, png16(scaled(np.asarray(random_image(70)), 12)))["notice"] is None
    for maps in ("always", "never"):
        told = server.query(twelve, png16(scaled(np.asarray(random_image(70)), 10)), maps=maps)
        assert "--bits 10" in told["notice"]
    again = server.query(twelve, png16(scaled(np.asarray(random_image(70)), 10)))["score_map"]["id"]
    assert "--bits 10" in server.http.get(f"/v1/results/{again}").json()["notice"]
    pages = encoded(random_image(70), "TIFF", save_all=True, append_images=[random_image(71)])
    assert "the first of its 2 pages" in server.query(twelve, pages)["notice"]


def test_a_job_says_which_pages_are_not_read(server: Server) -> None:
    pages = encoded(random_image(70), "TIFF", save_all=True, append_images=[random_image(71), random_image(72)])
    files = [("images", ("stack.tif", pages)), ("images", ("damaged.tif", pages[:20]))]
    told = server.finished(server.http.post("/v1/galleries/plain/images", files=files).json()["id"])
    assert told["report"]["added"] == 1
    assert [notice for notice in told["notices"] if "the first of its 3 pages" in notice and "stack.tif" in notice]
