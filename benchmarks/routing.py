"""Is an image routed to its gallery, and what does routing cost? 20 galleries of crops, and one of each FOLDER.

The crops are of textures and photographs that scikit-image carries. Those of the tests are drawn like those of the
galleries, so they overlap with them; folders are split, and every fifth image is a test. Each test is also routed among
all galleries but its own, which should take it for none of theirs.

python benchmarks/routing.py FOLDER... --json benchmarks/results/routing.json
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
import skimage.data
from PIL import Image

from spade_index.benchmarks.harness import (
    Figures,
    WrongResult,
    environment,
    ratios,
    spread,
    table,
    take_turns,
    timed,
    write_json,
)
from spade_index.features.backbone import Backbone, load_backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images, load
from spade_index.method.detector import Detector
from spade_index.method.router import Router
from spade_index.settings import Preprocessing

PICTURES = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "microaneurysms", "moon", "page", "retina", "rocket", "text"),
    "stereo_motorcycle",
)
EDGE = 0.7  # of a crop, as a share of the picture's shorter edge
FIFTH = 5
ASKED = {"routed_right": 0.99, "cost": 0.05}  # at least, at most


def write_crops(folder: Path, name: str, count: int, seed: int = 0) -> None:
    """Write `count` crops of a picture, from 000.png on, lighter or darker, so that few are equal."""
    folder.mkdir(parents=True)
    random = np.random.default_rng([seed, PICTURES.index(name)])
    found = getattr(skimage.data, name)()
    picture = Image.fromarray(found[0] if isinstance(found, tuple) else found).convert("RGB")
    edge = round(EDGE * min(picture.size))
    for number in range(count):
        left, top = (int(random.integers(size - edge + 1)) for size in picture.size)
        crop = np.asarray(picture.crop((left, top, left + edge, top + edge))).astype(np.int16)
        crop += random.integers(-10, 11, dtype=np.int16)
        Image.fromarray(crop.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")


def split(folder: Path) -> tuple[list[ImageFile], list[ImageFile]]:
    """Return the images of a gallery, and those of its test."""
    files = list(find_images(folder))
    return [file for place, file in enumerate(files) if place % FIFTH], files[::FIFTH]


def build_galleries(folders: dict[str, Path], work: Path, backbone: Backbone) -> dict[str, list[ImageFile]]:
    """Build a gallery of each folder in `work`; return the tests of each."""
    tests = {}
    for name, folder in folders.items():
        kept, tests[name] = split(folder)
        with GalleryWriter(work / name, backbone.settings) as writer:
            writer.add(iter(kept), backbone)
            writer.build_index()
    return tests


def require_own(router: Router, galleries: dict[str, Gallery]) -> None:
    """Raise WrongResult unless a gallery's own image is at no distance from it."""
    for name, gallery in galleries.items():
        (route,) = router.route(gallery.pooled(gallery.sample(1)))
        if (route.gallery, route.distance, route.share) != (name, 0, 0):
            raise WrongResult(f"an image of {name} is routed to {route}")


def routed(galleries: dict[str, Gallery], tests: dict[str, np.ndarray]) -> Figures:
    """Return the shares of tests that are routed right, wrong, and to none; and to none without their gallery."""
    router, right, none, without = Router(galleries), [], [], []
    require_own(router, galleries)
    for name, pooled in tests.items():
        for route in router.route(pooled):
            right.append(route.taken and route.gallery == name)
            none.append(not route.taken)
        others = Router({other: gallery for other, gallery in galleries.items() if other != name})
        without += [not route.taken for route in others.route(pooled)]
    wrong = 1 - np.mean(right) - np.mean(none)
    return {
        "tests": len(right),
        "routed_right": float(np.mean(right)),
        "routed_wrong": float(wrong),
        "called_none": float(np.mean(none)),
        "called_none_without_theirs": float(np.mean(without)),
    }


def cost(galleries: dict[str, Gallery], backbone: Backbone, test: ImageFile, rounds: int) -> Figures:
    """Return the milliseconds of routing one image, of a query, and their ratio."""
    image, router = load(test, backbone.settings.preprocessing), Router(galleries)
    detector = Detector(next(iter(galleries.values())), backbone)
    pooled, _ = detector.features([image])
    contenders = {
        "routing": lambda: timed(lambda: router.route(pooled))[1],
        "query": lambda: timed(lambda: detector.detect([image]))[1],
    }
    take_turns(contenders, 1)  # warm
    seconds = take_turns(contenders, rounds)
    found = {name: spread([1000 * value for value in values], "ms") for name, values in seconds.items()}
    return {**found, **ratios(seconds["routing"], seconds["query"])}


def measure(folders: dict[str, Path], work: Path, backbone: Backbone, rounds: int) -> Figures:
    """Build galleries of folders; return what is routed right, and the cost."""
    tests = build_galleries(folders, work, backbone)
    how = backbone.settings.preprocessing
    pooled = {name: np.concatenate(list(described(backbone, files, how))) for name, files in tests.items()}
    with ExitStack() as stack:
        galleries = {name: stack.enter_context(Gallery(work / name)) for name in folders}
        return {
            "galleries": len(galleries),
            **routed(galleries, pooled),
            "cost": cost(galleries, backbone, next(iter(tests.values()))[0], rounds),
        }


def described(backbone: Backbone, files: list[ImageFile], how: Preprocessing) -> Iterator[np.ndarray]:
    """Yield the descriptor float32 [1, D] of each image."""
    for file in files:
        yield backbone(load(file, how).pixels[None]).pooled.cpu().numpy()


@click.command(help=__doc__)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--images", default=40, show_default=True, type=click.IntRange(5), help="Crops of each picture")
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1))
@click.option("--backbone", default="efficientnet-lite0", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(folders: tuple[Path, ...], images: int, rounds: int, backbone: str, json_file: Path | None) -> None:
    """Measure, print a table, and write the figures."""
    with tempfile.TemporaryDirectory(prefix="spade-index-") as root:
        work, named = Path(root), {f"{number}-{folder.name}": folder for number, folder in enumerate(folders)}
        for name in PICTURES:
            named[name] = work / "images" / name
            write_crops(named[name], name, images)
        found = measure(named, work / "galleries", load_backbone(backbone), rounds)
    rows = [[name, f"{value:.4g}"] for name, value in found.items() if name != "cost"]
    rows += [
        ["routing / query", f"{found['cost']['ratio']:.3f}"],
        ["routing, ms", f"{found['cost']['routing']['ms']:.3g}"],
    ]
    click.echo("\n".join(table([["", "value"], *rows])))
    click.echo(f"asked: routed_right at least {ASKED['routed_right']}, routing / query at most {ASKED['cost']}")
    write_json(json_file, {**environment(), "images": images, "rounds": rounds, "asked": ASKED, **found})


if __name__ == "__main__":
    main()
