"""The Python client: galleries, queries and results."""

import io
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.client import Client
from spade_index.client import client as module
from spade_index.errors import InputError

from helpers.serving import Server
from helpers.tiny import png, random_image
from helpers.uploads import odd

KEY = "a-key-that-may-read"


def test_the_import_loads_neither_torch_nor_the_service() -> None:
    code = "import sys, spade_index.client; print({'torch', 'fastapi', 'faiss', 'h5py'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_service_and_galleries_are_described(client: Client) -> None:
    assert client.ready()
    assert client.service().galleries == 4
    limits = client.service().limits
    assert limits["images"] == limits.images == 32
    assert limits == dict(limits)
    assert set(limits) >= {"body_bytes", "image_pixels", "seconds"}
    assert "tries" not in limits
    assert limits.get("tries") is None
    assert [(one.name, one.images, one.calibrated) for one in client.galleries()] == [
        ("calibrated", 12, True),
        ("cropped", 12, False),
        ("other", 12, False),
        ("plain", 12, False),
    ]
    gallery = client.gallery("calibrated")
    assert (gallery.images, gallery.input_size, gallery.may_write) == (12, (32, 32), True)
    assert set(gallery.thresholds) == {"pooled", "map", "both"}


def test_paths_bytes_and_pictures_give_the_same_result(client: Client, shared_server: Server, tmp_path: Path) -> None:
    (tmp_path / "suspect.png").write_bytes(png(50))
    image = random_image(50)
    forms = [tmp_path / "suspect.png", str(tmp_path / "suspect.png"), png(50), image, np.asarray(image)]
    (expected,) = shared_server.http.post("/v1/galleries/plain/query", content=png(50)).json()["results"]
    for form in forms:
        (result,) = client.query("plain", form)  # by itself, for equal bits
        assert (result.score, result.scores) == (expected["score"], expected["scores"])
        assert [asdict(one) for one in result.neighbours] == expected["neighbours"]
        assert json.loads(json.dumps(result.evidence and asdict(result.evidence))) == expected["evidence"]
        assert result.image == ("suspect.png" if isinstance(form, str | Path) else None)


def test_grey_and_rotated_pictures_are_sent_unchanged(client: Client) -> None:
    grey = random_image(51).convert("L")
    (one,), (other,) = client.query("plain", grey), client.query("plain", np.asarray(grey))
    assert one.score == other.score
    turned = random_image(51)
    turned.getexif()[0x0112] = 6
    (as_seen,), (as_sent,) = (
        client.query("plain", turned.transpose(Image.Transpose.ROTATE_270)),
        client.query("plain", turned),
    )
    assert (as_sent.score, as_sent.width, as_sent.height) == (as_seen.score, 36, 40)


def test_results_keep_the_order_and_names_of_the_images(client: Client) -> None:
    found = client.query("plain", {"a": png(1), "b": random_image(2), "c": np.asarray(random_image(3))})
    assert [(one.image, one.neighbours[0].id) for one in found] == [
        ("a", "001.png"),
        ("b", "002.png"),
        ("c", "003.png"),
    ]
    with pytest.raises(FrozenInstanceError):
        found[0].score = 0.0


def test_pictures_and_matches_are_fetched(client: Client, shared_server: Server) -> None:
    (result,) = client.query("plain", [png(60)], maps="always")
    assert result.kept is not None
    score_map = result.score_map()
    assert (score_map.dtype, score_map.shape) == (np.float32, (32, 32))
    assert score_map.max() == np.float32(result.kept.max) == np.float32(result.scores["map"])
    assert [(one.mode, one.size) for one in (result.overlay(0.7), result.heat(), result.grey())] == [
        ("RGB", (40, 36)),
        ("RGBA", (40, 36)),
        ("L", (32, 32)),
    ]
    assert result.overlay(0.0).tobytes() == random_image(60).tobytes()
    assert result.evidence is not None
    match = result.match(*result.evidence.pixel)
    told = shared_server.http.get(
        f"/v1/results/{result.kept.id}/match", params=dict(zip("xy", match.pixel, strict=True))
    )
    assert json.loads(json.dumps(asdict(match))).items() <= told.json().items()
    assert match.neighbour_size == (40, 36)
    assert result.thumbnail().size == result.thumbnail(match.neighbour).size == (40, 36)


def test_regions_are_objects(client: Client) -> None:
    (result,) = client.query("calibrated", [odd()], maps="always")
    assert result.kept is not None
    assert result.regions is not None
    assert result.regions[0].score == result.kept.max
    assert len(result.regions[0].polygon[0]) == 2
    assert client.query("plain", [odd()], maps="always")[0].regions is None


def test_threshold_and_maps_are_applied(client: Client) -> None:
    (result,) = client.query("plain", png(60), maps="never", threshold=0)
    assert (result.kind, result.threshold, result.anomalous, result.kept, result.evidence) == (
        "pooled",
        0,
        True,
        None,
        None,
    )
    with pytest.raises(InputError, match="maps='always'"):
        result.overlay()
    assert result.thumbnail().size == (40, 36)
    assert client.query("plain", png(60), maps="never", threshold=1e9)[0].anomalous is False
    assert client.query("plain", png(60))[0].anomalous is None


def test_images_yields_all_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 5)
    found = list(client.images("plain"))
    assert [one.id for one in found] == [f"{number:03d}.png" for number in range(12)]
    assert (found[0].width, found[0].height) == (40, 36)


def test_an_open_file_is_one_image(client: Client, tmp_path: Path) -> None:
    (tmp_path / "open.png").write_bytes(png(3))
    expected = client.query("plain", png(3))[0].score
    with open(tmp_path / "open.png", "rb") as file:
        (result,) = client.query("plain", file)
    assert (result.image, result.score) == ("open.png", pytest.approx(expected))
    for data in (bytearray(png(3)), memoryview(png(3)), io.BytesIO(png(3))):
        assert client.query("plain", data)[0].score == pytest.approx(expected)
    with open(tmp_path / "open.png", encoding="latin-1") as text, pytest.raises(InputError, match="'rb'"):
        client.query("plain", text)
