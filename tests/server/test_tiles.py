"""A served gallery of tiles: pictures are added, removed and restored as wholes, tiles one by one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spade_index.gallery.write.writer import GalleryWriter

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiled import picture, tiled_settings, tiles
from helpers.tiny import tiny_backbone
from helpers.uploads import parts


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
