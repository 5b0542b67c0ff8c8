"""POST /v1/query: each image is scored by the gallery that it belongs to, of those the key may read, or by none."""

import asyncio
import io
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.router import OwnDistances
from spade_index.server import candidates

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import build, tiny_backbone, write_images
from helpers.uploads import parts

pytestmark = pytest.mark.usefixtures("decoding_here")
COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40), "blue": (40, 40, 220)}
KEY = "a-key-0123456789"


def coloured(colour: tuple[int, int, int], seed: int) -> bytes:
    """Return an image of a colour, with noise."""
    noise = np.random.default_rng(seed).integers(-30, 31, (36, 40, 3))
    buffer = io.BytesIO()
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_coloured(folder: Path, name: str, first: int, count: int) -> Path:
    """Write images of a gallery's colour."""
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        (folder / f"{number:03d}.png").write_bytes(coloured(COLOURS[name], number))
    return folder


@pytest.fixture(scope="module")
def _colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    for name in COLOURS:
        build(folder / "root" / name, write_coloured(folder / name, name, 0, 8), tiny_backbone())
    build(folder / "root" / "another", write_images(folder / "images", 5), tiny_backbone(seed=1))
    build(folder / "root" / "few", write_images(folder / "two", 2), tiny_backbone())
    return folder / "root"


@pytest.fixture
def root(_colours: Path, tmp_path: Path) -> Path:
    """Three galleries by colour, one of another backbone, and one of too few images."""
    return Path(shutil.copytree(_colours, tmp_path / "root"))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the galleries whose own distances are found, in their order."""
    names: list[str] = []
    find = OwnDistances.of

    def of(gallery: Gallery) -> OwnDistances:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        assert threading.current_thread().name != "engine"
        names.append(gallery.name)
        return find(gallery)

    monkeypatch.setattr(OwnDistances, "of", of)
    return names


def routed(server: Server, data: bytes, **options: Any) -> dict[str, Any]:
    """Query one image of no gallery in particular; return its result."""
    answer = server.http.post("/v1/query", content=data, **options)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return dict(result)


def without_links(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "score_map"}


@pytest.mark.parametrize("held", [candidates.HELD_BYTES, 0])
def test_the_gallery_of_an_image_answers(server: Server, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(candidates, "HELD_BYTES", held)
    for name, colour in COLOURS.items():
        image = coloured(colour, 100)
        result = routed(server, image)
        assert (result["route"]["gallery"], result["route"]["taken"]) == (name, True)
        assert 0 < result["route"]["reaches"] < 4
        assert without_links(result["result"]) == without_links(server.query(name, image))
        with Gallery(server.settings.root / name) as gallery:
            assert result["result"]["snapshot"] == gallery.snapshot
        assert result["route"]["distance"] == pytest.approx(result["result"]["neighbours"][0]["distance"], rel=1e-4)


def test_images_share_one_pass_and_keep_their_order(server: Server) -> None:
    names = ["blue", "red", "none", "blue"]
    files = {"none": (255, 255, 0)} | COLOURS
    sent = parts(*((f"{place}.png", coloured(files[name], 100 + place)) for place, name in enumerate(names)))
    results = server.http.post("/v1/query?maps=always", files=sent).json()["results"]
    assert [backbone.batches for backbone in server.watch.backbones] == [[4]]
    assert [result["image"] for result in results] == [f"{place}.png" for place in range(4)]
    assert [r["route"]["gallery"] if r["route"]["taken"] else "none" for r in results] == names
    assert [result["result"] and result["result"]["image"] for result in results] == ["0.png", "1.png", None, "3.png"]
    link = results[3]["result"]["score_map"]["overlay"]
    assert server.http.get(link).headers["content-type"] == "image/png"
    for name, images in (("blue", 2), ("red", 1)):
        (told,) = server.http.get(f"/v2/models/{name}/stats").json()["model_stats"]
        assert told["inference_count"] == images


def test_an_image_of_no_gallery_has_no_verdict(server: Server) -> None:
    result = routed(server, coloured((255, 255, 0), 1), params={"threshold": 0, "name": "yellow.png"})
    assert result["image"] == "yellow.png"
    assert (result["route"]["taken"], result["result"]) == (False, None)
    assert result["route"]["gallery"] in COLOURS
    assert result["route"]["reaches"] > 4


def test_no_key_learns_of_a_gallery_that_it_may_not_read(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{KEY} red,blue read; other-{KEY} few read")
    mine, others = {"X-Api-Key": KEY}, {"X-Api-Key": f"other-{KEY}"}
    result = routed(server, coloured(COLOURS["green"], 100), headers=mine)
    assert "green" not in str(result)
    assert not result["route"]["taken"]
    assert routed(server, coloured(COLOURS["red"], 100), headers=mine)["route"]["gallery"] == "red"
    refused = server.http.post("/v1/query", content=coloured(COLOURS["red"], 1), headers=others)
    assert "none that can be chosen among" in problem(refused, 409)["detail"]
    assert not [name for name in (*COLOURS, "another") if name in refused.text]


def test_own_distances_are_found_again_where_a_gallery_has_changed(
    server: Server, found: list[str], tmp_path: Path
) -> None:
    image = coloured((255, 255, 0), 1)
    for _ in range(2):
        assert not routed(server, image)["route"]["taken"]
        assert sorted(found) == sorted(COLOURS)
    found.clear()
    (tmp_path / "yellow").mkdir()
    for number in range(8):
        (tmp_path / "yellow" / f"y{number}.png").write_bytes(coloured((255, 255, 0), number))
    build(server.settings.root / "green", tmp_path / "yellow", tiny_backbone())
    assert routed(server, image)["route"] | {"distance": 0} == {
        "gallery": "green", "taken": True, "distance": 0, "share": 0, "reaches": 0
    }  # fmt: skip
    assert found == ["green"]
    shutil.rmtree(server.settings.root / "green")
    assert not routed(server, image)["route"]["taken"]


@pytest.fixture
def waiting(server: Server) -> Iterator[Callable[[bytes], Any]]:
    """Send an image to be routed, which waits behind a held batch of `blue`; what is returned has the answer."""
    with ThreadPoolExecutor(2) as threads, server.watch.held():

        def send(data: bytes) -> Any:
            threads.submit(server.query, "blue", coloured(COLOURS["blue"], 1))
            server.watch.wait_until_entered()
            answer = threads.submit(server.http.post, "/v1/query", content=data)
            server.wait_until_waiting(1)
            return answer

        yield send


def test_a_gallery_that_goes_meanwhile_is_asked_for_again(server: Server, waiting: Callable[[bytes], Any]) -> None:
    answer = waiting(coloured(COLOURS["green"], 100))
    shutil.rmtree(server.settings.root / "green")
    server.watch.release()
    assert "changed meanwhile" in problem(answer.result(), 503)["detail"]
    assert "Retry-After" in answer.result().headers
    assert not routed(server, coloured(COLOURS["green"], 100))["route"]["taken"]


def test_a_gallery_that_is_built_anew_meanwhile_is_asked_for_again(
    server: Server, waiting: Callable[[bytes], Any]
) -> None:
    answer = waiting(coloured(COLOURS["green"], 100))
    shutil.rmtree(server.settings.root / "green")
    shutil.copytree(server.settings.root / "another", server.settings.root / "green")
    server.watch.release()
    assert "changed meanwhile" in problem(answer.result(), 503)["detail"]


@pytest.mark.parametrize("held", [candidates.HELD_BYTES, 0])
def test_a_gallery_that_is_emptied_meanwhile_fails_no_image_of_another(
    server: Server, waiting: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(candidates, "HELD_BYTES", held)
    answer = waiting(coloured(COLOURS["red"], 100))
    with GalleryWriter(server.settings.root / "green") as writer:
        writer.remove([f"{number:03d}.png" for number in range(8)])
    server.watch.release()
    assert answer.result().json()["results"][0]["route"]["gallery"] == "red"


def test_errors_are_those_of_a_query(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(request_images=1)
    image = coloured(COLOURS["red"], 1)
    undecodable = problem(server.http.post("/v1/query", content=b"no image"), 422)
    assert undecodable["errors"][0]["field"] == "images[0]"
    assert "snapshot" in problem(server.http.post("/v1/query?snapshot=1", content=image), 422)["detail"]
    problem(server.http.post("/v1/query", files=parts(("a.png", image), ("b.png", image))), 422)
    (tmp_path / "empty").mkdir()
    problem(serve(root=tmp_path / "empty").http.post("/v1/query", content=image), 409)
