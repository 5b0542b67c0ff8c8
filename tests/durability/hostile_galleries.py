"""The galleries whose files are changed: flat, with an index that is mapped, and of tiles with a region of interest."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.index import build as build_module
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage, load_parts
from spade_index.images.files import ImageFile
from spade_index.images.interest import RegionOfInterest
from spade_index.method import calibration
from spade_index.method.detector import Detector
from spade_index.method.pictures import detect_parts
from spade_index.method.tuned import tuned_search
from spade_index.server.job import Job
from spade_index.settings import IndexSettings, SearchSettings

from durability.hostile_changes import SECRET
from helpers.decoding_here import HERE
from helpers.model import BACKBONE
from helpers.tiled import picture, tiled_settings
from helpers.tiny import TinyCNN, image_file, png

IMAGES = 24
PICTURES = 14  # that are cut into tiles
JOBS = ("queued", "running", "done")  # states of the jobs beside the gallery
SEARCH = SearchSettings(gallery_neighbours=5)
TILED = Backbone("tiny-0", TinyCNN(0), tiled_settings().preprocessing, device="cpu", precision="float32")
MASK = np.zeros((4, 8), bool)  # a region of interest
MASK[1:, 1:7] = True


@dataclass(frozen=True)
class Kind:
    """A kind of gallery, and how it is used."""

    name: str
    backbone: Backbone = BACKBONE
    tiled: bool = False
    exact_limit: int = 20_000  # images up to which an index is flat

    def file(self, number: int, name: str | None = None) -> ImageFile:
        """Return an image that such a gallery takes."""
        name = name or f"{number:03d}.png"
        return picture(name, number % 2, seed=number) if self.tiled else image_file(name, png(number))

    @property
    def query(self) -> list[DecodedImage]:
        """Return the parts of an image to query."""
        return list(load_parts(self.file(77, "query.png"), self.backbone.settings.preprocessing))


HONEST = Kind("flat")  # also of the gallery beside the hostile one
KINDS = (
    HONEST,
    Kind("ivf", exact_limit=2),
    Kind("tiles", TILED, tiled=True),
)


def answers(path: Path, kind: Kind, parts: Sequence[DecodedImage]) -> list[Any]:
    """Return what a gallery answers to a query, as it was tuned and calibrated."""
    with Gallery(path) as gallery:
        search = tuned_search(gallery)
        detector = Detector(gallery, kind.backbone, search, device="cpu")
        found = detect_parts(detector, parts)
        pixels = found.pixels.score_map.tobytes().hex() if found.pixels else None
        near = [(n.id, n.distance) for n in found.neighbours]
        return [found.scores, detector.thresholds, near, pixels, found.p_value]


def made(folder: Path, kind: Kind) -> Path:
    """Make a gallery with all kinds of files, jobs and an honest gallery beside it, and files outside."""
    whole = folder / kind.name
    path = whole / "root" / "gallery"
    few = patch.multiple(build_module, EXACT_LIMIT=kind.exact_limit, LEAST_PER_LIST=4)
    with few, GalleryWriter(path, kind.backbone.settings) as writer:
        writer.shard_rows = 10
        count = PICTURES if kind.tiled else IMAGES
        writer.add([kind.file(number) for number in range(count)], kind.backbone, workers=1, decoders=HERE)
        writer.remove(["003.png"])
        writer.compact()
        writer.remove([f"{count // 2:03d}.png"])
        writer.build_index(IndexSettings("flat"))
        if kind.tiled:
            writer.set_interest(RegionOfInterest(MASK, "made"))
        found = calibration.calibrate(writer.gallery, SEARCH, false_alarms=0.2, device="cpu")
        calibration.store(writer, SEARCH, found)
        writer.set_tuned({"search": {"gallery_neighbours": 5}, "images": 22, "snapshot": 5, "why": "tuned"})
        writer.add([kind.file(99, "late.png")], kind.backbone, workers=1, decoders=HERE)
    with GalleryWriter(whole / "root" / "honest", BACKBONE.settings) as writer:
        writer.add([HONEST.file(number) for number in range(6)], BACKBONE, workers=1, decoders=HERE)
    _put_jobs(whole / "root" / ".spade-index" / "jobs")
    outside = whole / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_bytes(SECRET)
    with h5py.File(outside / "secret.h5", "w") as file:
        file["stolen"] = np.frombuffer(SECRET, np.uint8)
    (outside / "image.png").write_bytes(png(123))  # that the command line queries and adds
    return whole


def _put_jobs(folder: Path) -> None:
    for number, state in enumerate(JOBS):
        job: Any = Job(f"{number:016x}", "gallery", False, "", names=["a.png"], state=state)
        (folder / job.id / "images").mkdir(parents=True)
        (folder / job.id / "images" / "0").write_bytes(png(70 + number))
        (folder / job.id / "job.json").write_text(json.dumps(asdict(job)))
