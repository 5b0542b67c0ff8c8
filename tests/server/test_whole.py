"""A served gallery of two scales."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.decode import load_parts
from spade_index.images.tiles import part_ids
from spade_index.method.detector import Detector
from spade_index.method.judgement import carry_on
from spade_index.method.pictures import detect_parts
from spade_index.method.tuned import tuned_search

from helpers.serving import Server
from helpers.tiled import SIZES, picture, tiled_settings
from helpers.tiny import tiny_backbone
from helpers.uploads import parts

HOW = tiled_settings(whole=True).preprocessing


PICTURES, SIZE = 10, 2  # calibration needs as many; a small one, of two tiles
pytestmark = pytest.mark.usefixtures("decoding_here")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "tiled"
    with GalleryWriter(path, tiled_settings(whole=True)) as writer:
        writer.add([picture(f"{seed}.png", SIZE, seed) for seed in range(PICTURES)], tiny_backbone())
        carry_on(writer, tuned_search(writer.gallery))
    return path


@pytest.fixture
def served(built: Path, root: Path, serve: Callable[..., Server]) -> Server:
    shutil.copytree(built, root / "tiled")
    return serve()


def test_the_service_and_the_detector_agree(served: Server) -> None:
    sent = picture("a.png", 0, seed=50)
    answer = served.http.post("/v1/galleries/tiled/query?maps=always", files=parts(("a.png", sent.read()))).json()
    (result,) = answer["results"]
    with Gallery(served.settings.root / "tiled") as gallery:
        detection = detect_parts(Detector(gallery, tiny_backbone()), load_parts(sent, HOW))
        assert detection.pixels is not None
        saved = np.load(io.BytesIO(served.http.get(result["score_map"]["npy"]).content))
        np.testing.assert_allclose(saved, detection.pixels.score_map, rtol=1e-4, atol=1e-4)
    assert result["score"] == pytest.approx(detection.score, rel=1e-5)
    assert result["p_value"] == pytest.approx(detection.p_value)
    ids = {id for seed in range(PICTURES) for id in part_ids(f"{seed}.png", *SIZES[SIZE], HOW)}
    for x in range(0, SIZES[0][0], 3):
        match = served.http.get(result["score_map"]["match"], params={"x": x, "y": 20}).json()
        assert match["neighbour"] in ids
        if match["neighbour"].endswith("@whole"):
            assert match["neighbour_box"] == [0, 0, *SIZES[SIZE]]


def test_pictures_are_added_and_removed_as_wholes(served: Server) -> None:
    files = parts(("new.png", picture("new.png", 1, seed=60).read()))
    job = served.finished(served.http.post("/v1/galleries/tiled/images", files=files).json()["id"])
    ids = part_ids("new.png", *SIZES[1], HOW)
    assert (job["report"]["added"], job["report"]["tiles"]) == (1, len(ids))
    thumbnail = served.http.get("/v1/galleries/tiled/thumbnail", params={"id": "new.png@whole"})
    assert Image.open(io.BytesIO(thumbnail.content)).size == SIZES[1]
    answer = served.http.post("/v1/galleries/tiled/remove", json={"ids": ["new.png"]}).json()
    listed = served.http.get("/v1/galleries/tiled/images", params={"limit": 1000}).json()["images"]
    assert answer["images"] == len(listed) == PICTURES * len(part_ids("0.png", *SIZES[SIZE], HOW))


def test_odd_rows_of_both_scales_have_maps(served: Server) -> None:
    told = served.http.get("/v1/galleries/tiled/audit", params={"count": 100}).json()
    assert any(image["id"].endswith("@whole") for image in told["odd"])
    for image in told["odd"][:3] + [image for image in told["odd"] if image["id"].endswith("@whole")][:1]:
        sizes = [Image.open(io.BytesIO(served.http.get(image[link]).content)).size for link in ("thumbnail", "heat")]
        assert abs(sizes[0][0] / sizes[0][1] - sizes[1][0] / sizes[1][1]) < 0.05
