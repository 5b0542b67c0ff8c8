"""Does memory grow with the gallery? Peak memory of `build` and `query` at several numbers of images.

    python benchmarks/memory.py --json benchmarks/results/memory.json

Images are crops of a photograph that scikit-image carries; each command is a process of its own, and its peak is what
the operating system says of it when it ends.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from spade_index.benchmarks.harness import environment

EDGE = 96  # pixels of an image and of the backbone's input


def main() -> None:
    """Measure, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = environment()
    rows = [measure(count) for count in arguments.images]
    print(f"{'images':>8}{'build MB':>10}{'query MB':>10}{'gallery MB':>12}")
    for row in rows:
        print(f"{row['images']:8}{row['build_mb']:10.0f}{row['query_mb']:10.0f}{row['gallery_mb']:12.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**found, "input": EDGE, "rows": rows}, indent=2) + "\n")
        draw(rows, arguments.json.with_suffix(".png"))


def measure(count: int) -> dict[str, float]:
    """Peak memory in MB of a build of so many images, and of queries of eight of them."""
    with tempfile.TemporaryDirectory() as folder:
        images, gallery = Path(folder, "images"), Path(folder, "gallery")
        make_images(images, count)
        options = ["--backbone", "efficientnet-lite0", "--input-size", str(EDGE)]
        build = peak(["build", str(images), str(gallery), *options])
        queries = sorted(str(path) for path in images.iterdir())[:8]
        query = peak(["query", str(gallery), *queries, "--out", str(Path(folder, "found"))])
        size = sum(path.stat().st_size for path in gallery.rglob("*") if path.is_file())
        return {"images": count, "build_mb": build, "query_mb": query, "gallery_mb": size / 1e6}


def make_images(folder: Path, count: int) -> None:
    """Distinct crops of one photograph."""
    folder.mkdir()
    photograph = skimage.data.gravel()
    random = np.random.default_rng(0)
    for number in range(count):
        top, left = random.integers(0, 512 - EDGE, 2)
        crop = photograph[top : top + EDGE, left : left + EDGE].astype(np.int16) + random.integers(-20, 20)
        Image.fromarray(crop.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.png")


def peak(arguments: list[str]) -> float:
    """Run spade-index; the largest resident size that its process had, in MB."""
    code = "from spade_index.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"spade-index {' '.join(arguments)} failed with {status}")
    return usage.ru_maxrss / 1e3  # kilobytes on Linux


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Peak memory against the number of images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for name in ("build_mb", "query_mb"):
        axes.plot([row["images"] for row in rows], [row[name] for row in rows], marker="o", label=name[:-3])
    axes.set(xscale="log", xlabel="images in the gallery", ylabel="peak memory (MB)", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
