"""Known defects in the answers of the service."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.client import Client
from spade_index.errors import JobFailed
from spade_index.gallery import Gallery
from spade_index.gallery.store.record import Feedback
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import load
from spade_index.method.named_defects import DefectNamer

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import image_file, png, tiny_backbone
from helpers.uploads import odd, parts, spotted

pytestmark = pytest.mark.usefixtures("decoding_here")
PATH = "/v1/galleries/calibrated"
READER, WRITER = "a-key-that-only-reads", "a-key-that-may-write"


def test_a_region_is_like_a_defect_that_another_program_made_known(server: Server, root: Path) -> None:
    assert server.query("calibrated", odd())["regions"][0]["known_defect"] is None
    with GalleryWriter(root / "calibrated") as writer:
        image = load(image_file("odd.png", odd()), writer.settings.preprocessing)
        for named in DefectNamer(writer.gallery, tiny_backbone(), "hole").named([image]):
            writer.add_known_defects(Feedback("defect", "Ada", ""), "said", named.digest, named.defects)
    known = server.query("calibrated", odd())["regions"][0]["known_defect"]
    assert (known["id"], known["kind"], known["alike"], known["seen"]) == ("said", "hole", True, 1)
    assert known["distance"] < 0.01 < known["limit"]
    picture = server.http.get(known["picture"])
    assert (picture.headers["content-type"], picture.headers["x-content-type-options"]) == ("image/jpeg", "nosniff")
    assert Image.open(io.BytesIO(picture.content)).format == "JPEG"
    with GalleryWriter(root / "calibrated") as writer:
        writer.undo_feedback("said")
    assert server.query("calibrated", odd())["regions"][0]["known_defect"] is None
    problem(server.http.get(known["picture"]), 404, "number")
    problem(server.http.get(f"{PATH}/defects/{2**63}/picture"), 422)


def marked(kind: str) -> bytes:
    """Return an image that looks wrong in the way of a kind."""
    rows, columns = np.indices((36, 40))
    drawn = (rows // 4 + columns // 4) % 2 if kind == "hole" else columns // 2 % 2
    colours = np.array([[0, 0, 0], [255, 255, 255]] if kind == "hole" else [[255, 0, 0], [0, 0, 60]], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours[drawn]).save(buffer, "PNG")
    return buffer.getvalue()


def test_defects_of_two_kinds_are_recognised_until_one_is_undone(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{READER} * read\n{WRITER} * write")
    write = {"Authorization": f"Bearer {WRITER}"}
    files, kinds = parts(("a.png", marked("hole"))), ("hole", "=scratch")
    read = {"Authorization": f"Bearer {READER}"}
    problem(server.http.post(f"{PATH}/feedback?verdict=defect&kind=hole", files=files, headers=read), 403)
    with Client(server.url, WRITER) as client:
        ids = {}
        for kind in kinds:
            job = client.wait(client.say_defect("calibrated", {"a.png": marked(kind)}, kind, note="old press"))
            assert (job.report, job.verdict, job.kind) == ({"known_defects": 1}, "defect", kind)
            (ids[kind],) = job.feedback_ids
        for kind in kinds:
            (result,) = client.query("calibrated", {"a.png": marked(kind)}, maps="always")
            known = result.regions[0].known_defect
            assert (known.kind, known.id, known.alike, known.seen) == (kind, ids[kind], True, 1)
        again = client.wait(client.say_defect("calibrated", {"b.png": marked("hole")}, "dent"))
        assert (again.report, again.feedback_ids) == ({"copies": 1}, ())
        assert "known defect already" in again.notices[0]
        assert client.gallery("calibrated").images == 12
        table = server.http.get(f"{PATH}/feedback?format=csv", headers=write).text
        assert [row["kind"] for row in csv.DictReader(table.splitlines())] == ["'=scratch", "hole"]
        assert client.undo_feedback("calibrated", ids["hole"]).images == 12
        (result,) = client.query("calibrated", {"a.png": marked("hole")}, maps="always")
        assert result.regions[0].known_defect.kind == "=scratch"
        assert [(one.kind, one.there) for one in client.feedback("calibrated")] == [("=scratch", True), ("hole", False)]
        missed = client.wait(client.say_missed("calibrated", {"c.png": png(77)}))
        assert (missed.report, missed.kind) == ({"known_defects": 1}, "")


def test_a_box_is_where_the_defect_of_one_image_lies(server: Server, root: Path) -> None:
    with Client(server.url) as client:
        job = client.wait(client.say_missed("calibrated", {"c.png": png(77)}, "dent", box=(10, 12.5, 9, 8)))
        assert job.report == {"known_defects": 1}
        with pytest.raises(JobFailed, match="is not in an image of 40x36 pixels"):
            client.wait(client.say_missed("calibrated", {"d.png": png(78)}, box=(32, 0, 9, 8)))
    with Gallery(root / "calibrated") as gallery:
        (known,) = gallery.catalog.known_defects(gallery.catalog.channels)
    assert (known.place.found, known.place.box) == ("box", (10, 12.5, 9, 8))
    path, one = f"{PATH}/feedback?verdict=missed&box=", parts(("a.png", png(3)))
    for wrong in ("1,2,3", "1,2,3,x", "-1,2,3,4", "1,2,0,4", "1,2,3,1e300", "1,2,3,4,5"):
        problem(server.http.post(path + wrong, files=one), 422, "box")
    problem(server.http.post(f"{PATH}/feedback?box=1,2,3,4", files=one), 422, "box")
    problem(server.http.post(f"{path}1,2,3,4", files=parts(("a.png", png(3)), ("b.png", png(4)))), 422, "images")


def known(root: Path) -> list[tuple[str, tuple[float, ...]]]:
    """Return the kinds and boxes of the gallery's known defects, the oldest first."""
    with Gallery(root / "calibrated") as gallery:
        return [(one.kind, one.place.box) for one in gallery.catalog.known_defects(gallery.catalog.channels)]


def test_each_region_of_an_image_has_a_kind_of_its_own(server: Server, root: Path) -> None:
    boxes = {(4.0, 4.0, 9.0, 8.0): "scratch", (20.0, 4.0, 9.0, 8.0): "dent", (4.0, 20.0, 9.5, 8.0): "scratch"}
    with Client(server.url) as client:
        job = client.wait(client.say_defect("calibrated", {"c.png": odd()}, boxes))
        assert (job.report, job.kinds) == ({"known_defects": 1}, ["scratch", "dent", "scratch"])
        assert known(root) == [(kind, box) for box, kind in boxes.items()]
        for kind in ("scratch", "dent"):
            (row,) = client.feedback("calibrated", kind=kind)
            assert (row.kind, row.kinds) == ("scratch, dent", ("scratch", "dent"))
        assert client.feedback("calibrated", kind="scratch, dent") == []
        assert len(client.feedback("calibrated", contains="SCRATCH, d")) == 1  # as a table shows them
        (result,) = client.query("calibrated", {"a.png": odd()})
        assert result.regions[0].known_defect.kind in ("scratch", "dent")
        client.undo_feedback("calibrated", *job.feedback_ids)
        assert known(root) == []
        client.wait(client.say_missed("calibrated", {"d.png": png(77)}, {(4, 4, 9, 8): "", (20, 4, 9, 8): "dent"}))
        (row,) = client.feedback("calibrated", kind="", undone=False)
        assert (row.kind, row.kinds) == ("dent", ("", "dent"))


def test_the_boxes_of_the_regions_say_what_no_boxes_say(server: Server, root: Path) -> None:
    image = spotted()
    boxes = [tuple(region["box"]) for region in server.query("calibrated", image, maps="always")["regions"]]
    assert len(boxes) > 1
    told = []
    with Client(server.url) as client:
        for kinds in ("dent", dict.fromkeys(boxes, "dent"), dict.fromkeys([(0, 0, 40, 36), *boxes[1:]], "dent")):
            job = client.wait(client.say_defect("calibrated", {"c.png": image}, kinds))
            with Gallery(root / "calibrated") as gallery:
                found = gallery.catalog.known_defects(gallery.catalog.channels)
            told.append([(one.place, one.score, one.kind, one.features.tobytes()) for one in found])
            client.undo_feedback("calibrated", *job.feedback_ids)
    assert told[0] == told[1]
    assert [place.found for place, *_ in told[2]] == ["box", *["region"] * (len(boxes) - 1)]


def test_a_box_without_a_kind_is_of_the_kind_of_the_request(server: Server, root: Path) -> None:
    path, files = f"{PATH}/feedback?verdict=defect", parts(("a.png", png(3)))
    for wrong in ("", "1,2,3,4:", ":dent", "1,2,3:dent", "1,2,3,4:a%0Ab", f"1,2,3,4:{'k' * 101}"):
        problem(server.http.post(f"{path}&kind=hole&box=1,2,3,4&box={wrong}", files=files), 422, "box")
    problem(server.http.post(f"{path}&kind=hole{'&box=1,2,3,4' * 11}", files=files), 422, "box")
    problem(server.http.post(f"{path}&box=1,2,3,4:dent&box=1,2,3,4", files=files), 422, "kind")
    problem(server.http.post(f"{PATH}/feedback?box=1,2,3,4:dent", files=files), 422, "box")
    problem(server.http.post(f"{path}&kind=a&kind=b&box=1,2,3,4&box=5,6,7,8", files=files), 422, "kind")
    said = server.http.post(f"{path}&kind=hole&box=1,2,3,4&box=5,6,7,8:a: b,c", files=parts(("a.png", odd())))
    server.finished(said.json()["id"])
    assert known(root) == [("hole", (1, 2, 3, 4)), ("a: b,c", (5, 6, 7, 8))]


def test_a_kind_belongs_to_defects_and_is_one_line(shared_server: Server) -> None:
    for given in ("verdict=defect", "kind=hole", "verdict=missed&kind=a%0Ab", f"verdict=defect&kind={'k' * 101}"):
        answer = shared_server.http.post(f"{PATH}/feedback?{given}", files=parts(("a.png", png(3))))
        problem(answer, 422, "kind")
