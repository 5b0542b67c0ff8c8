"""A served gallery of tiles: pictures are added, removed and restored as wholes, tiles one by one."""

import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.decode import DecodedImage, load_parts
from spade_index.images.tiles import box_of
from spade_index.method.detector import Detector
from spade_index.method.judgement import carry_on
from spade_index.method.pictures import Joining, Pictures
from spade_index.method.tuned import tuned_search
from spade_index.server import limits
from spade_index.server.decoding import Decoders, Upload

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiled import SIZES, picture, tiled_settings, tiles
from helpers.tiny import tiny_backbone
from helpers.uploads import parts
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")


@pytest.fixture
def served(root: Path, serve: Callable[..., Server]) -> Server:
    with GalleryWriter(root / "tiled", tiled_settings()) as writer:
        writer.add([picture("a.png", 0), picture("b.png", 1)], tiny_backbone())
    return serve()


def change(server: Server, action: str, *ids: str) -> dict:
    answer = server.http.post(f"/v1/galleries/tiled/{action}", json={"ids": list(ids)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed(server: Server, **parameters: object) -> list[str]:
    answer = server.http.get("/v1/galleries/tiled/images", params={"limit": 1000, **parameters}).json()
    return [image["id"] for image in answer["images"]]


def test_pictures_and_tiles_are_removed_and_restored(served: Server) -> None:
    first, second = tiles("a.png", 0), tiles("b.png", 1)
    assert listed(served) == first + second
    assert change(served, "remove", "a.png", second[0])["images"] == len(second) - 1
    assert listed(served, removed=True) == [*first, second[0]]
    told = problem(served.http.post("/v1/galleries/tiled/remove", json={"ids": ["a.png"]}), 404)
    assert "a.png" in told["detail"]
    assert change(served, "restore", "a.png")["images"] == len(first + second) - 1
    assert change(served, "restore", second[0])["images"] == len(first + second)
    problem(served.http.post("/v1/galleries/tiled/restore", json={"ids": ["a.png"]}), 409, "ids")


def test_a_job_adds_pictures_as_tiles(served: Server) -> None:
    files = parts(("a.png", picture("a.png", 0).read()), ("c.png", picture("c.png", 3, seed=5).read()))
    answer = served.http.post("/v1/galleries/tiled/images", files=files)
    job = served.finished(answer.json()["id"])
    count = len(tiles("c.png", 3))
    assert (job["report"]["added"], job["report"]["tiles"], job["report"]["unchanged"]) == (1, count, 1)
    assert job["done"] == 2
    assert listed(served)[-count:] == tiles("c.png", 3)
    thumbnail = served.http.get("/v1/galleries/tiled/thumbnail", params={"id": tiles("c.png", 3)[0]})
    assert thumbnail.content.startswith(b"\xff\xd8")


def test_a_picture_is_answered_as_a_whole(served: Server) -> None:
    width, height = SIZES[1]
    sent = parts(("a.png", picture("a.png", 1, seed=7).read()), ("b.png", picture("b.png", 3, seed=8).read()))
    first, second = served.http.post("/v1/galleries/tiled/query?maps=always", files=sent).json()["results"]
    assert (first["width"], first["height"], first["image"]) == (width, height, "a.png")
    assert (second["width"], second["height"]) == SIZES[3]
    assert first["neighbours"][0]["id"] in tiles("a.png", 0) + tiles("b.png", 1)
    x, y = first["evidence"]["pixel"]
    assert 0 <= x < width
    assert 0 <= y < height
    alone = served.http.post("/v1/galleries/tiled/query?maps=always", files=sent[:1]).json()["results"][0]
    assert alone["score"] == first["score"]
    shown = served.http.get(first["score_map"]["overlay"])
    assert Image.open(io.BytesIO(shown.content)).size == (width, height)
    score_map = np.load(io.BytesIO(served.http.get(first["score_map"]["npy"]).content))
    assert score_map.shape == (height, width)
    for column in range(0, width, 5):
        match = served.http.get(first["score_map"]["match"], params={"x": column, "y": height - 1}).json()
        assert match["neighbour"] in tiles("a.png", 0) + tiles("b.png", 1)


def test_the_service_and_the_detector_agree(served: Server) -> None:
    sent = picture("a.png", 0, seed=7)
    answer = served.http.post("/v1/galleries/tiled/query?maps=always", files=parts(("a.png", sent.read()))).json()
    with Gallery(served.settings.root / "tiled") as gallery:
        detector, how = Detector(gallery, tiny_backbone()), gallery.settings.preprocessing
        cut = load_parts(sent, how)
        ((whole, detection),) = Pictures().completed(cut, detector.detect(cut), Joining.of(detector))
    assert whole.geometry.box == (0, 0, *SIZES[0])
    assert answer["results"][0]["score"] == pytest.approx(detection.score, rel=1e-5)


def test_the_open_inference_protocol_answers_pictures(served: Server) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(picture("a.png", 0, seed=7).read())).convert("RGB"))
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, *pixels.shape], "data": pixels.ravel().tolist()}
    answer = served.http.post("/v2/models/tiled/infer", json={"inputs": [tensor]}).json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["score_map"]["shape"] == [1, 32, 32]
    assert len(outputs["score"]["data"]) == 1


def test_a_match_says_which_part_of_the_picture_its_thumbnail_shows(served: Server) -> None:
    sent = parts(("a.png", picture("a.png", 0).read()))
    answer = served.http.post("/v1/galleries/tiled/query?maps=always", files=sent).json()["results"][0]
    match = served.http.get(answer["score_map"]["match"], params={"x": 70, "y": 50}).json()
    how = tiled_settings().preprocessing
    left, top, right, bottom = box_of(match["neighbour"], *match["neighbour_size"], how)
    assert match["neighbour_box"] == [left, top, right - left, bottom - top]
    x, y = match["neighbour_pixel"]
    assert left <= x < right
    assert top <= y < bottom


def test_odd_tiles_have_maps_to_lay_over_their_thumbnails(root: Path, serve: Callable[..., Server]) -> None:
    with GalleryWriter(root / "tiled", tiled_settings()) as writer:
        writer.add([picture(f"{seed}.png", 2, seed) for seed in range(10)], tiny_backbone())
        carry_on(writer, tuned_search(writer.gallery))
    server = serve()
    told = server.http.get("/v1/galleries/tiled/audit", params={"count": 3}).json()
    for image in told["odd"]:
        sizes = [Image.open(io.BytesIO(server.http.get(image[link]).content)).size for link in ("thumbnail", "heat")]
        assert sizes == [(32, 32), (192, 192)]
    change(server, "remove", told["odd"][0]["id"])
    assert told["odd"][0]["id"] not in listed(server)


def test_limit_pictures(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is in memory from when it is decoded until its last tile is answered; others wait."""
    held: set[int] = set()
    most = 0
    tiles_of = Decoders.tiles

    async def counted(
        decoders: Decoders, client: str, number: int, upload: Upload, *rest: Any
    ) -> AsyncIterator[list[DecodedImage]]:
        nonlocal most
        held.add(id(upload))
        most = max(most, len(held))
        async for some in tiles_of(decoders, client, number, upload, *rest):
            assert len(some) <= served.settings.batch_images
            yield some
        held.remove(id(upload))

    monkeypatch.setattr(Decoders, "tiles", counted)
    sent = parts(*((f"{number}.png", picture("x.png", number % 2, seed=number).read()) for number in range(3)))
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: served.http.post("/v1/galleries/tiled/query", files=sent), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert most == limits.PICTURES


def test_clients_that_go_leave_room_for_the_pictures_of_others(served: Server) -> None:
    sent = parts(("a.png", picture("a.png", 0, seed=7).read()))
    query = "/v1/galleries/tiled/query"
    assert served.http.post(query, files=sent).status_code == 200
    with served.watch.held():
        for _ in range(limits.PICTURES + 1):
            with pytest.raises(httpx.TimeoutException):
                served.http.post(query, files=sent, timeout=0.5)
        eventually(lambda: served.service.cutting.free == limits.PICTURES)
    assert served.http.post(query, files=sent).status_code == 200


def test_the_memory_of_a_kept_picture_is_that_of_all_its_tiles(served: Server) -> None:
    sent = parts(("a.png", picture("a.png", 0, seed=7).read()))
    served.http.post("/v1/galleries/tiled/query?maps=always", files=sent)
    cells, width = 8 * 8, 4 + 8 + 4  # of the grid; bytes of a distance, a match and a mean
    least = len(tiles("a.png", 0)) * cells * width
    assert int(served.metric("spade_index_results_bytes")) >= least
