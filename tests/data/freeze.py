"""Makes the frozen gallery of the current format version: run once per version, commit what it writes, never change it.

Its maps are codes by tables of the catalog, which version 4 of the format adds, of some levels, as version 3 allows.

python tests/data/freeze.py
"""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import skimage.data
from PIL import Image

from spade_index import Detector, Gallery, GalleryWriter, SearchSettings, find_images, load_backbone
from spade_index.gallery.store.format import VERSION
from spade_index.images import load

EDGE = 64
KEPT = (1, 2)  # levels
SEARCH = SearchSettings(score_neighbours=2, gallery_neighbours=3, smoothing=1.0, compared_levels=KEPT)


def main() -> None:
    """Write format_VERSION/ (the gallery) and format_VERSION.json (what a query of it gives)."""
    here = Path(__file__).parent / f"format_{VERSION}"
    backbone = load_backbone("efficientnet-lite0", preprocessing=lambda own: replace(own, input_size=(EDGE, EDGE)))
    photograph = skimage.data.brick()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(6):
            crop = photograph[70 * number : 70 * number + EDGE, 40 * number : 40 * number + EDGE]
            Image.fromarray(crop).save(Path(folder, f"{number}.png"))
        with GalleryWriter(here, backbone.settings, maps="int8") as writer:
            writer.add(find_images(folder), backbone)
            tuned = {"search": {"compared_levels": KEPT}, "why": "frozen", "images": 6}
            writer.set_tuned({**tuned, "snapshot": writer.gallery.snapshot})
            writer.compact(maps="pq", levels=KEPT)
            writer.build_index()
            writer.remove(["5.png"])
    (here / "writer.lock").unlink()
    shutil.rmtree(here / "readers", ignore_errors=True)
    query = Path(here.parent, "query.png")
    Image.fromarray(photograph[200 : 200 + EDGE, 300 : 300 + EDGE]).save(query)
    with Gallery(here) as gallery:
        detector = Detector(gallery, backbone, SEARCH)
        (found,) = detector.detect([load(next(find_images(query)), backbone.settings.preprocessing)])
        neighbours = [[n.id, n.distance] for n in found.neighbours]
    expected = {"scores": found.scores, "neighbours": neighbours, "snapshot": found.snapshot, "compared_levels": KEPT}
    here.with_suffix(".json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
