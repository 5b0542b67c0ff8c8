"""Drift of the images judged last: over HTTP, in the client, and for Prometheus."""

import numpy as np
import pytest
from PIL import Image

from spade_index.client import Client
from spade_index.server.limits import DRIFT_IMAGES

from helpers.serving import Server
from helpers.tiny import png, random_image
from helpers.uploads import encoded, parts

pytestmark = pytest.mark.usefixtures("decoding_here")

RANK = 'spade_index_drift_rank{gallery="calibrated",of="%s"}'
WARNING = 'spade_index_drift_warning{gallery="calibrated",of="%s"}'


def query(server: Server, images: list[bytes], gallery: str = "calibrated") -> None:
    for first in range(0, len(images), 30):
        files = parts(*((f"{place}.png", data) for place, data in enumerate(images[first : first + 30])))
        answer = server.http.post(f"/v1/galleries/{gallery}/query", params={"maps": "never"}, files=files)
        assert answer.status_code == 200, answer.text


def dark(seed: int) -> bytes:
    return encoded(Image.fromarray((np.asarray(random_image(seed)) // 4).astype(np.uint8)))


def test_images_that_are_darker_than_the_gallery_are_drift(server: Server) -> None:
    with Client(server.url) as client:
        nothing = client.drift("calibrated")
        assert (nothing.images, nothing.calibrated, nothing.score) == (0, True, None)
        query(server, [png(seed) for seed in range(500, 540)] * 2)  # each counts once
        found = client.drift("calibrated")
        assert found.brightness is not None
        assert (found.images, found.brightness.warns) == (40, False)
        assert server.metric(WARNING % "brightness") == 0
        query(server, [dark(seed) for seed in range(600, 660)])
        found = client.drift("calibrated")
        assert found.brightness is not None
        assert found.score is not None
        assert (found.images, found.brightness.warns, sum(found.brightness.bins)) == (100, True, 100)
        assert found.brightness.mean_rank < 0.4
    assert server.metric(WARNING % "brightness") == 1
    assert server.metric(RANK % "score") == pytest.approx(found.score.mean_rank)


def test_without_a_calibration_there_is_nothing_to_compare_with(server: Server) -> None:
    query(server, [png(500)], "plain")
    found = server.http.get("/v1/galleries/plain/drift").json()
    assert (found["calibrated"], found["score"], found["brightness"]) == (False, None, None)
    assert "spade_index_drift_rank{" not in server.http.get("/metrics").text


def test_limit_drift_images(server: Server) -> None:
    query(server, [png(seed) for seed in range(500, 500 + DRIFT_IMAGES + 10)])
    assert server.http.get("/v1/galleries/calibrated/drift").json()["images"] == DRIFT_IMAGES
