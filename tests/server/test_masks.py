"""Masks of queries: each image may bring its own, where the gallery has a region of interest."""

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.client import Client
from spade_index.features.backbone import Backbone
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.interest import RegionOfInterest
from spade_index.method.judgement import carry_on
from spade_index.method.tuned import tuned_search
from spade_index.server import decoding
from spade_index.settings import Preprocessing

from helpers.decoding_here import DecodersHere
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import INPUT, TinyCNN, build, png, random_image, write_images

SIZE = (40, 36)
QUERY = "/v1/galleries/plain/query"
LEFT = {"polygons": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}


def mask(left: int, right: int, size: tuple[int, int] = SIZE) -> bytes:
    """Return a mask picture whose columns from `left` to `right` are inside."""
    picture = Image.new("L", size)
    picture.paste(1, (left, 0, right, size[1]))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def spotted(x: int) -> bytes:
    """Return the PNG file of a normal image with a bright spot at a column."""
    image = random_image(3)
    image.paste("white", (x, 12, x + 8, 20))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def claiming(edge: int) -> bytes:
    """Return a PNG file whose head claims more pixels than Pillow opens."""
    data = bytearray(mask(0, 20))
    data[16:24] = struct.pack(">2I", edge, edge)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


def by_rule(path: Path, *, calibrate: bool = True) -> None:
    """Let a gallery have a mask for each image, the left half of all of them."""
    region = RegionOfInterest(np.array([[True, False]]), "mask").packed
    with GalleryWriter(path) as writer:
        writer.set_region_rule("masks/{stem}.png", {row.key: region for row in writer.gallery.images()})
        if calibrate:
            carry_on(writer, tuned_search(writer.gallery), false_alarms=0.1)


@pytest.fixture(scope="module")
def server(_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = Path(shutil.copytree(_root, tmp_path_factory.mktemp("masks") / "root"))
    by_rule(root / "plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "DecoderPool", DecodersHere)
        served = Server(root)
        yield served
        served.stop()


def form(images: list[bytes], masks: list[bytes], names: str = "{}.png") -> list[tuple[str, tuple[str, bytes]]]:
    sent = [("images", (f"{number}.png", data)) for number, data in enumerate(images)]
    return sent + [("masks", (names.format(number), data)) for number, data in enumerate(masks)]


def answers(server: Server, images: list[bytes], masks: list[bytes], names: str = "{}.png") -> list[dict]:
    told = server.http.post(QUERY, files=form(images, masks, names))
    assert told.status_code == 200, told.text
    return list(told.json()["results"])


def test_a_defect_counts_in_the_mask_of_its_image_alone(server: Server) -> None:
    images = [png(3), spotted(4), spotted(30), spotted(30)]
    plain, inside, outside, right = answers(server, images, [mask(0, 20), mask(0, 20), mask(0, 20), mask(20, 40)])
    assert (inside["anomalous"], outside["anomalous"]) == (True, False)
    assert plain["score"] == outside["score"] < right["score"]
    assert inside["evidence"]["pixel"][0] < 20 <= right["evidence"]["pixel"][0]
    assert [found["notice"] for found in (plain, inside, outside, right)] == [None] * 4
    heat = np.asarray(Image.open(io.BytesIO(server.http.get(inside["score_map"]["heat"]).content)))
    assert (heat[:, 24:] == (0, 0, 0, 89)).all()
    told = problem(server.http.get(inside["score_map"]["match"], params={"x": 34, "y": 14}), 422, "x")
    assert "outside of the region of interest" in told["detail"]
    (whole,) = answers(server, [spotted(30)], [])
    assert "send one in `masks`" in whole["notice"]


def test_one_mask_is_for_all_images_and_may_be_polygons(server: Server) -> None:
    drawn, marked = json.dumps(LEFT).encode(), answers(server, [spotted(4), spotted(30)], [mask(0, 20)])
    for sent, names in ((drawn, "a.json"), (b"\xef\xbb\xbf " + drawn, "a"), (mask(0, 40, (80, 72)), "a.PNG")):
        found = answers(server, [spotted(4), spotted(30)], [sent], names)
        assert [one["score"] for one in found] == [one["score"] for one in marked]
    turned = random_image(3).transpose(Image.Transpose.ROTATE_90)
    buffer = io.BytesIO()
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(buffer, "PNG", exif=exif)
    (upright,) = answers(server, [png(3)], [mask(0, 20)])
    as_stored = io.BytesIO()
    Image.open(io.BytesIO(mask(0, 20))).transpose(Image.Transpose.ROTATE_90).save(as_stored, "PNG")
    for same in (mask(0, 20), as_stored.getvalue()):  # of the upright image, and of its pixels as they are stored
        (found,) = answers(server, [buffer.getvalue()], [same])
        assert found["score"] == upright["score"]


def test_a_score_map_takes_a_mask(server: Server) -> None:
    path = "/v1/galleries/plain/score-map"
    told = server.http.post(path, params={"format": "npy"}, files=form([spotted(30)], [mask(0, 20)]))
    scores = np.load(io.BytesIO(told.content))
    assert scores[:, 16:].max() <= scores[:, :16].min()


@pytest.mark.usefixtures("decoding_here")
def test_a_picture_of_tiles_is_joined_within_its_mask(serve: Callable[..., Server], root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "plain")
    how = Preprocessing(input_size=(INPUT, INPUT), tile=32)
    tiling = Backbone("tiny-0", TinyCNN(0), how, device="cpu", precision="float32")
    build(root / "plain", write_images(tmp_path / "images", 6, size=(96, 64)), tiling, batch_size=5)
    by_rule(root / "plain", calibrate=False)
    image = random_image(3, (96, 64))
    plain = io.BytesIO()
    image.save(plain, "PNG")
    image.paste("white", (70, 20, 86, 36))
    spot = io.BytesIO()
    image.save(spot, "PNG")
    server = serve()
    left = [mask(0, 40, (96, 64))]
    (normal,), (outside,) = (answers(server, [of.getvalue()], left) for of in (plain, spot))
    (inside,) = answers(server, [spot.getvalue()], [mask(56, 96, (96, 64))])
    assert outside["score"] == pytest.approx(normal["score"], rel=0.2)
    assert inside["evidence"]["pixel"][0] > 56
    assert outside["evidence"]["pixel"][0] < 40


@pytest.mark.parametrize(
    ("masks", "names", "field", "says"),
    [
        ([mask(0, 20)] * 3, "{}.png", "masks", "3 for 2 images"),
        ([b""] * 2, "{}.png", "masks[0]", "is empty"),
        ([mask(0, 20), b"no picture"], "m{}.png", "masks[1]", "1.png: its region of interest cannot be used: m1.png"),
        ([mask(0, 0)], "{}.png", "masks[0]", "nothing of the picture is inside"),
        ([mask(0, 20), mask(0, 20, (40, 30))], "{}.png", "masks[1]", "not the shape of its image"),
        ([mask(0, 20, (9000, 8100))], "{}.png", "masks[0]", "over the limit of 50,000,000"),
        ([claiming(60_000)], "{}.png", "masks[0]", "over the limit of 50,000,000"),
        ([b'{"polygons": [[[0, 0], [NaN, 0], [1, 1]]]}'], "{}", "masks[0]", "JSON"),
        ([b'{"polygons": ' + b"[" * 50_000], "{}", "masks[0]", "is not JSON"),
        ([b'{"polygons": [[[0, 0], [300, 0], [1, 1]]]}'], "{}.json", "masks[0]", '"size"'),
    ],
)
def test_what_is_wrong_with_a_mask_is_named(
    server: Server, masks: list[bytes], names: str, field: str, says: str
) -> None:
    told = problem(server.http.post(QUERY, files=form([png(3), spotted(4)], masks, names)), 422, field)
    assert says in told["detail"]


def test_where_masks_cannot_count_they_are_refused(server: Server) -> None:
    sent = form([png(3)], [mask(0, 20)])
    told = problem(server.http.post("/v1/galleries/other/query", files=sent), 422, "masks")
    assert told["detail"] == "gallery 'other' has no region of interest, so its images cannot have one"
    for path in ("/v1/query", "/v1/galleries/plain/images", "/v1/galleries/plain/feedback?verdict=false_alarm"):
        assert (
            "unknown field: `masks` come with queries"
            in problem(server.http.post(path, files=sent), 422, "masks")["detail"]
        )
    many = form([png(3)], [mask(0, 20)] * 33)
    assert "more masks than the limit of 32" in problem(server.http.post(QUERY, files=many), 422, "masks")["detail"]
    problem(server.http.post(QUERY, files=form([], [mask(0, 20)])), 422, "images")


def test_the_client_sends_masks(server: Server, tmp_path: Path) -> None:
    (tmp_path / "left.json").write_text(json.dumps(LEFT))
    picture = Image.open(io.BytesIO(mask(0, 20)))
    (expected,) = answers(server, [spotted(4)], [mask(0, 20)])
    with Client(server.url) as client:
        for given in (mask(0, 20), picture, np.asarray(picture), tmp_path / "left.json"):
            (found,) = client.query("plain", spotted(4), masks=given)
            assert found.score == expected["score"]
        assert len(client.query("plain", [spotted(4), png(3)], masks=[picture, tmp_path / "left.json"])) == 2
