"""Are small defects found in large pictures, with tiles and without? Pictures are made of scikit-image's textures.

python benchmarks/large_pictures.py --json benchmarks/results/large_pictures.json
"""

import json
import runpy
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import skimage
from PIL import Image

from spade_index.benchmarks.harness import Figures, environment, table, write_json
from spade_index.benchmarks.processes import Failed, in_own_process
from spade_index.settings import TUNE_FROM

DEFECT = 12  # pixels across
EDGE = 200  # pixels of a picture's border without a defect
REACH = 16  # pixels from the defect's centre, within which the worst place has found it
MOVED = 7  # pixels, to the left and up, of a second picture of each defect
AROUND = 40  # pixels to each side of a defect, in which its place in the score map is measured
COLUMNS = ("found", "called", "false_alarms", "build_s_per_mp", "query_s_per_mp", "build_mb", "query_mb", "shift")


def picture(texture: str, size: tuple[int, int], seed: int, moved: int) -> np.ndarray:
    """Return a picture float64 [H, W] of this width and height: the texture from some place on, lit and noisy."""
    random = np.random.default_rng(seed)
    values = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / f"{texture}.png").convert("L"), float)
    mirrored = np.pad(values, [(0, edge) for edge in values.shape], mode="symmetric")
    across, down = random.integers(0, mirrored.shape[::-1]) + moved
    rows, columns = (np.arange(size[1]) + down) % len(mirrored), (np.arange(size[0]) + across) % mirrored.shape[1]
    return mirrored[np.ix_(rows, columns)] * random.normal(1, 0.02) + random.normal(0, 3, size[::-1])


def make(folder: Path, texture: str, size: tuple[int, int], normal: int, tested: int) -> dict[str, list[int]]:
    """Write pictures to train/, test/good, test/bad and test/moved; return the centre of each defect."""
    centres = {}
    for seed in range(normal):
        _save(picture(texture, size, seed, 0), folder / f"train/{seed:03}.png")
    for seed in range(normal, normal + tested):
        _save(picture(texture, size, seed, 0), folder / f"test/good/{seed}.png")
        for kind, moved in (("bad", 0), ("moved", MOVED)):
            values, random = picture(texture, size, seed, moved), np.random.default_rng(seed)
            x, y = random.integers(EDGE, (size[0] - EDGE, size[1] - EDGE)) - moved
            rows, columns = np.ogrid[: size[1], : size[0]]
            values[(columns - x) ** 2 + (rows - y) ** 2 < (DEFECT / 2) ** 2] = random.choice([20, 235])
            centres[f"{kind}/{seed}.png"] = [int(x), int(y)]
            _save(values, folder / f"test/{kind}/{seed}.png")
    return centres


def _save(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB").save(path)


def run(arguments: list[str]) -> Figures:
    """Run a command of `spade-index` in this process; return how long it took. Raises Failed."""
    started = time.monotonic()
    sys.argv = ["spade-index", *arguments]
    try:
        runpy.run_module("spade_index", run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise Failed(f"spade-index {arguments[0]} failed") from ended
    return {"seconds": time.monotonic() - started}


def measure(work: Path, name: str, size: tuple[int, int], centres: dict[str, list[int]], options: list[str]) -> Figures:
    """Build a gallery with these options and query all pictures: what is found, and what it costs."""
    gallery, out, lines = work / name, work / f"{name}-out", work / f"{name}.jsonl"
    build = in_own_process(run, ["build", str(work / "train"), str(gallery), *options])
    query = in_own_process(run, ["query", str(gallery), str(work / "test"), "--jsonl", str(lines), "--out", str(out)])
    answers = {answer["image"]: answer for answer in map(json.loads, lines.read_text().splitlines())}
    near = [np.hypot(*np.subtract(answers[name]["evidence"]["pixel"], at)) <= REACH for name, at in centres.items()]
    of_good = [answer["anomalous"] for name, answer in answers.items() if name not in centres]
    centre = {name: _centre(out / "score_maps", name, at, size) for name, at in centres.items()}
    shifts = [centre[name] - centre[name.replace("bad", "moved")] for name in centre if name.startswith("bad")]
    megapixels = size[0] * size[1] / 1e6
    normal = len(list((work / "train").iterdir()))
    return {
        "found": float(np.mean(near)),
        "called": float(np.mean([answers[name]["anomalous"] for name in centres])),
        "false_alarms": float(np.mean(of_good)),
        "build_s_per_mp": build["seconds"] / (megapixels * normal),
        "query_s_per_mp": query["seconds"] / (megapixels * len(answers)),
        "build_mb": build["peak_mb"],
        "query_mb": query["peak_mb"],
        "shift": float(np.median(shifts)),
    }


def _centre(maps: Path, name: str, at: list[int], size: tuple[int, int]) -> np.ndarray:
    """Return the centre (x, y) of what a score map shows around a defect, in pixels of the picture."""
    score_map = np.load(maps / f"{name}.npy")
    scale = score_map.shape[1] / size[0]
    left, top, right, bottom = (round((edge + by) * scale) for by in (-AROUND, AROUND) for edge in at)
    seen = score_map[top:bottom, left:right]
    weights = np.clip(seen - np.quantile(seen, 0.8), 0, None)
    rows, columns = np.indices(seen.shape) + 0.5
    mean = np.array([(weights * columns).sum() + left * weights.sum(), (weights * rows).sum() + top * weights.sum()])
    centre: np.ndarray = mean / max(weights.sum(), 1e-12) / scale
    return centre


@click.command(help=__doc__)
@click.option("--backbone", default="efficientnet-lite0", show_default=True)
@click.option("--texture", "textures", multiple=True, default=["brick", "grass", "gravel"], show_default=True)
@click.option("--size", type=(int, int), default=(6000, 4000), show_default=True, help="Width and height.")
@click.option("--tile", default=224, show_default=True)
@click.option(
    "--normal",
    type=click.IntRange(TUNE_FROM),
    default=TUNE_FROM,
    show_default=True,
    help="Pictures of the gallery; of fewer, a gallery of whole pictures gives no verdict.",
)
@click.option("--tested", default=4, show_default=True, help="Good and defective pictures, each.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    backbone: str,
    textures: tuple[str, ...],
    size: tuple[int, int],
    tile: int,
    normal: int,
    tested: int,
    json_file: Path | None,
) -> None:
    """Measure every texture with tiles and without, print a table, and write the figures."""
    figures: Figures = {**environment(), "textures": {}}
    for texture in textures:
        with TemporaryDirectory(prefix="spade-index-") as folder:
            centres = make(Path(folder), texture, size, normal, tested)
            sized = ["--backbone", backbone, "--input-size", "224"]
            for name, options in (("tiles", ["--tile", str(tile)]), ("whole", [])):
                found = measure(Path(folder), name, size, centres, [*sized, *options])
                figures["textures"].setdefault(texture, {})[name] = found
                write_json(json_file, figures)
                click.echo(
                    "\n".join(table([["", *COLUMNS], [f"{texture}, {name}", *(f"{found[c]:.3g}" for c in COLUMNS)]]))
                )


if __name__ == "__main__":
    main()
