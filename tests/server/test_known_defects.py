"""Known defects in the answers of the service."""

import io
from pathlib import Path

from PIL import Image

from spade_index.gallery.store.record import Feedback
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import load
from spade_index.method.named_defects import DefectNamer

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import image_file, tiny_backbone
from helpers.uploads import odd

PATH = "/v1/galleries/calibrated"


def test_a_region_is_like_a_defect_that_another_program_made_known(server: Server, root: Path) -> None:
    assert server.query("calibrated", odd())["regions"][0]["known_defect"] is None
    with GalleryWriter(root / "calibrated") as writer:
        image = load(image_file("odd.png", odd()), writer.settings.preprocessing)
        for named in DefectNamer(writer.gallery, tiny_backbone()).named([image]):
            writer.add_known_defects(Feedback("defect", "Ada", ""), "said", "hole", named.digest, named.defects)
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
