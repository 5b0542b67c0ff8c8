"""Tests of galleries that change while they are served."""

import shutil
import threading
from pathlib import Path

import pytest

from spade_index.gallery.write.writer import GalleryWriter

from helpers.adding import add, new_images
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import build, image_file, png, tiny_backbone, write_images
from helpers.uploads import parts

pytestmark = pytest.mark.usefixtures("decoding_here")


def remove(server: Server, *ids: str, gallery: str = "plain", action: str = "remove"):
    return server.http.post(f"/v1/galleries/{gallery}/{action}", json={"ids": list(ids)})


def test_removed_images_are_not_neighbours_until_restored(server: Server) -> None:
    before = server.query("plain", png(3))
    removed = remove(server, "003.png", "004.png").json()
    assert (removed["changed"], removed["images"]) == (2, 10)
    without = server.query("plain", png(3))
    assert without["neighbours"][0]["id"] != "003.png"
    assert without["score"] > before["score"]
    assert without["snapshot"] == removed["snapshot"] > before["snapshot"]

    listed = server.http.get("/v1/galleries/plain/images", params={"removed": True}).json()
    assert [image["id"] for image in listed["images"]] == ["003.png", "004.png"]
    assert server.http.get("/v1/galleries/plain").json()["removed_images"] == 2

    restored = remove(server, "003.png", "004.png", action="restore").json()
    assert (restored["changed"], restored["images"]) == (2, 12)
    again = server.query("plain", png(3))
    assert again["scores"] == before["scores"]


def test_added_images_that_were_removed_stay_out_unless_they_are_asked_for(server: Server) -> None:
    removed = parts(("003.png", png(3)), ("other-name.png", png(4)))
    remove(server, "003.png", "004.png")
    kept_out = server.finished(add(server, removed))
    assert (kept_out["report"]["added"], kept_out["report"]["removed"], kept_out["again"]) == (0, 2, False)
    taken = server.finished(add(server, removed, again=True))
    assert (taken["report"]["added"], taken["report"]["removed"], taken["again"]) == (2, 0, True)
    assert server.http.get("/v1/galleries/plain").json()["images"] == 12


def test_removed_images_are_listed_page_by_page(server: Server) -> None:
    remove(server, *(f"{number:03d}.png" for number in range(7)))
    first = server.http.get("/v1/galleries/plain/images", params={"removed": True, "limit": 5}).json()
    assert len(first["images"]) == 5
    rest = server.http.get(
        "/v1/galleries/plain/images", params={"removed": True, "limit": 5, "after": first["next"]}
    ).json()
    assert [image["id"] for image in rest["images"]] == ["005.png", "006.png"]
    assert rest["next"] is None


def test_removal_is_all_or_nothing(server: Server) -> None:
    told = problem(remove(server, "003.png", "nope.png"), 404)
    assert "nope.png" in told["detail"]
    assert server.http.get("/v1/galleries/plain").json()["images"] == 12
    problem(remove(server), 422, "ids")
    problem(server.http.post("/v1/galleries/plain/remove", json={"id": ["003.png"]}), 422, "ids")
    problem(server.http.post("/v1/galleries/plain/remove", content=b"{"), 422)


def test_restoring_an_image_that_was_not_removed_is_refused(server: Server) -> None:
    told = problem(remove(server, "003.png", action="restore"), 409, "ids")
    assert "003.png" in told["detail"]
    problem(remove(server, "nope.png", action="restore"), 404)


def test_queries_of_an_emptied_gallery_are_refused(server: Server) -> None:
    ids = [f"{number:03d}.png" for number in range(12)]
    assert remove(server, *ids).json()["images"] == 0
    told = problem(server.http.post("/v1/galleries/plain/query", content=png(3)), 409)
    assert "empty" in told["detail"]
    assert server.http.get("/v1/galleries/plain").json()["images"] == 0
    remove(server, *ids, action="restore")
    assert server.query("plain", png(3))["neighbours"][0]["id"] == "003.png"


def test_the_next_query_sees_a_commit_of_another_process(server: Server, root: Path) -> None:
    first = server.query("plain", png(77))
    with GalleryWriter(root / "plain") as writer:
        writer.add([image_file("new.png", png(77))], tiny_backbone())
    second = server.query("plain", png(77))
    assert second["snapshot"] > first["snapshot"]
    assert second["neighbours"][0] == {"id": "new.png", "distance": 0.0}
    assert server.http.get("/v1/galleries/plain").json()["images"] == 13


def test_a_query_can_name_any_kept_snapshot(server: Server, root: Path) -> None:
    before = server.query("plain", png(3))
    remove(server, "003.png")
    after = server.query("plain", png(3))
    pinned = server.query("plain", png(3), snapshot=before["snapshot"])
    assert pinned["neighbours"] == before["neighbours"] != after["neighbours"]
    assert pinned["snapshot"] == before["snapshot"]
    at = "/v1/galleries/plain/query"
    problem(server.http.post(at, content=png(3), params={"snapshot": 999}), 404, "snapshot")
    with GalleryWriter(root / "plain") as writer:
        writer.compact()
    gone = server.http.post(at, content=png(3), params={"snapshot": before["snapshot"]})
    assert gone.status_code in (200, 404)  # what was open may be answered as long as it is
    server.http.post("/v1/galleries/plain/reload")
    problem(server.http.post(at, content=png(3), params={"snapshot": before["snapshot"]}), 404, "snapshot")
    assert server.query("plain", png(3))["neighbours"] == after["neighbours"]


def test_a_gallery_can_be_reloaded(server: Server) -> None:
    server.query("plain", png(3))
    told = server.http.post("/v1/galleries/plain/reload").json()
    assert told["images"] == 12
    assert server.query("plain", png(3))["neighbours"][0]["id"] == "003.png"
    assert server.http.get("/v1/galleries/plain").json()["open"] is True


def test_a_deleted_gallery_is_not_found(server: Server, root: Path) -> None:
    server.query("plain", png(3))
    shutil.rmtree(root / "plain")
    problem(server.http.post("/v1/galleries/plain/query", content=png(3)), 404, "gallery")
    problem(server.http.get("/v1/galleries/plain"), 404, "gallery")
    assert server.query("other", png(3))["neighbours"][0]["id"] == "003.png"


@pytest.mark.parametrize("opened", [True, False])
def test_a_rebuilt_gallery_replaces_the_old_one(server: Server, root: Path, opened: bool) -> None:
    if opened:
        server.query("plain", png(3))
    else:
        server.http.post("/v1/galleries/plain/query", content=b"no image")  # what it was built with is known
    shutil.rmtree(root / "plain")
    build(root / "plain", write_images(root / "images", 4), tiny_backbone(seed=2, size=48))
    told = server.query("plain", png(3))
    assert told["neighbours"][0] == {"id": "003.png", "distance": 0.0}
    assert server.http.get("/v1/galleries/plain").json()["input_size"] == [48, 48]


def test_an_image_decoded_for_a_replaced_gallery_is_refused_with_retry_after(server: Server, monkeypatch) -> None:
    other = tiny_backbone(size=48).settings
    monkeypatch.setattr(server.service.galleries, "settings_of", lambda name: other)
    answer = server.http.post("/v1/galleries/plain/query", content=png(3))
    problem(answer, 503)
    assert "retry-after" in answer.headers
    monkeypatch.undo()
    assert server.query("plain", png(3))["neighbours"][0]["id"] == "003.png"


def test_a_change_waits_a_limited_time_for_another_writer(serve, root: Path) -> None:
    server = serve(change_seconds=0.3)
    with GalleryWriter(root / "plain"):
        told = problem(remove(server, "003.png"), 409)
    assert "retry-after" in remove_headers(server, root)
    assert str(root) not in told["detail"]
    assert remove(server, "003.png").status_code == 200


def remove_headers(server: Server, root: Path):
    with GalleryWriter(root / "plain"):
        return remove(server, "003.png").headers


def test_queries_are_answered_during_changes(server: Server) -> None:
    stop = threading.Event()
    scores, errors = set(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                scores.add(server.query("plain", png(3))["scores"]["pooled"])
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        remove(server, "003.png")
        remove(server, "003.png", action="restore")
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    with_it = server.query("plain", png(3))["scores"]["pooled"]
    remove(server, "003.png")
    without_it = server.query("plain", png(3))["scores"]["pooled"]
    assert scores <= {with_it, without_it}


def test_open_galleries_stay_within_the_memory_budget(serve) -> None:
    server = serve(memory=1)
    for gallery in ("plain", "other", "cropped", "plain"):
        assert server.query(gallery, png(3))["neighbours"][0]["id"] == "003.png"
    assert server.metric("spade_index_open_galleries") <= 1


def test_galleries_with_the_same_backbone_share_it_and_its_batches(server: Server) -> None:
    for gallery in ("plain", "calibrated"):
        server.query(gallery, png(3))
    assert len(server.watch.backbones) == 1
    with server.watch.held():
        threads = [threading.Thread(target=server.query, args=("plain", png(1)))]
        threads[0].start()
        server.watch.wait_until_entered()
        threads += [
            threading.Thread(target=server.query, args=(gallery, png(number)))
            for number in range(3)
            for gallery in ("plain", "calibrated")
        ]
        for thread in threads[1:]:
            thread.start()
        server.wait_until_waiting(6)
    for thread in threads:
        thread.join()
    assert server.watch.backbones[0].batches[-1] == 6


def test_added_images_are_neighbours_when_the_job_is_done(server: Server) -> None:
    answer = server.http.post("/v1/galleries/plain/images", files=parts(("new.png", png(50)), ("old.png", png(3))))
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    job = server.finished(answer.json()["id"])
    assert (job["images"], job["done"]) == (2, 2)
    assert job["report"]["added"] == 1
    assert job["report"]["copies"] == 1
    assert any("old.png" in notice for notice in job["notices"])
    assert server.query("plain", png(50))["neighbours"][0] == {"id": "new.png", "distance": 0.0}
    assert job["snapshot"] == server.http.get("/v1/galleries/plain").json()["snapshot"]


def test_what_a_reader_learns_has_no_folders(server: Server, root: Path) -> None:
    listed = server.http.get("/v1/galleries/plain/images").json()["images"]
    assert [image["path"] for image in listed] == [f"{number:03d}.png" for number in range(12)]
    server.finished(add(server, new_images(1)))
    for path in ("/v1", "/v1/galleries", "/v1/galleries/plain", "/v1/jobs", "/v1/galleries/plain/images"):
        assert str(root.parent) not in server.http.get(path).text
    for folder in (root / ".spade-index").rglob("*"):
        if folder.is_dir():
            assert folder.stat().st_mode & 0o077 == 0
    assert (root / ".spade-index").stat().st_mode & 0o077 == 0
