"""The audit of the service: odd images, their maps, near-duplicates."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.audit import audit
from spade_index.method.judgement import carry_on
from spade_index.method.tuned import tuned_search

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import image_file, png, tiny_backbone
from helpers.uploads import odd

pytestmark = pytest.mark.usefixtures("decoding_here")
AUDIT = "/v1/galleries/calibrated/audit"
WRITER = "a-key-that-may-write"


def test_the_audit_is_that_of_the_command_line(server: Server, root: Path) -> None:
    with GalleryWriter(root / "calibrated") as writer:
        writer.add([image_file(f"new-{number}.png", png(50) + bytes(number)) for number in range(2)], tiny_backbone())
    told = server.http.get(AUDIT, params={"count": 5}).json()
    with Gallery(root / "calibrated") as gallery:
        found = audit(gallery, 5)
    assert [(image["id"], image["score"], image["p_value"]) for image in told["odd"]] == [
        (image.id, image.score, image.p_value) for image in found.odd
    ]
    assert (told["ranked"], told["images"], told["compared"]) == (12, 14, 14)
    assert told["near_duplicates"] == [["new-0.png", "new-1.png"]]
    assert len(server.http.get(AUDIT).json()["odd"]) == 12


def test_each_odd_image_has_a_map_to_lay_over_its_thumbnail(shared_server: Server) -> None:
    for image in shared_server.http.get(AUDIT).json()["odd"]:
        sizes = []
        for link in (image["thumbnail"], image["heat"]):
            answer = shared_server.http.get(link)
            assert answer.status_code == 200, answer.text
            picture = Image.open(io.BytesIO(answer.content))
            sizes.append(picture.width / picture.height)
        assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
        assert picture.mode == "RGBA"


def test_the_map_is_brightest_where_the_image_is_odd(server: Server, root: Path) -> None:
    half = Image.open(io.BytesIO(png(3))).convert("RGB")
    half.paste(Image.open(io.BytesIO(odd())).crop((20, 0, 40, 36)), (20, 0))
    data = io.BytesIO()
    half.save(data, "PNG")
    with GalleryWriter(root / "calibrated") as writer:
        writer.add([image_file("half.png", data.getvalue())], tiny_backbone())
        carry_on(writer, tuned_search(writer.gallery))
    first, *_ = server.http.get(AUDIT).json()["odd"]
    assert first["id"] == "half.png"
    alpha = Image.open(io.BytesIO(server.http.get(first["heat"]).content)).getchannel("A")
    left, right = (alpha.crop((x, 0, x + alpha.width // 2, alpha.height)) for x in (0, alpha.width // 2))
    assert right.getextrema()[1] > left.getextrema()[1]


def test_a_gallery_without_a_calibration_cannot_be_audited(shared_server: Server) -> None:
    told = problem(shared_server.http.get("/v1/galleries/plain/audit"), 409, "gallery")
    assert "spade-index calibrate plain" in told["detail"]
    problem(shared_server.http.get("/v1/galleries/plain/audit/heat.png", params={"id": "003.png"}), 404, "id")
    problem(shared_server.http.get(f"{AUDIT}/heat.png", params={"id": "nope.png"}), 404)


def test_one_audit_is_made_at_a_time(server: Server) -> None:
    with server.service.auditing:
        answer = server.http.get(AUDIT)
        problem(answer, 503)
        assert int(answer.headers["Retry-After"]) >= 1
    assert server.http.get(AUDIT).status_code == 200


def test_pages_of_other_sites_and_keys_that_read_remove_nothing(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{WRITER} calibrated write; a-key-that-only-reads calibrated read")
    for headers in (
        {"Authorization": f"Bearer {WRITER}", "Origin": "https://elsewhere.example"},
        {"Authorization": "Bearer a-key-that-only-reads"},
    ):
        problem(server.http.post("/v1/galleries/calibrated/remove", json={"ids": ["003.png"]}, headers=headers), 403)
    told = server.http.get(AUDIT, headers={"Authorization": f"Bearer {WRITER}"}).json()
    assert told["images"] == 12
