"""Does memory grow with the gallery? Peak memory of `build` and `query` at several numbers of images.

    python benchmarks/memory.py --json benchmarks/results/memory.json

Images are crops of photographs; each command runs in its own process, and its peak is what the operating system reports
when it ends. The picture lies beside the JSON.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from spade_index.benchmarks.harness import Figures, check_outputs, environment, picture, table, tidy, write_json
from spade_index.benchmarks.photographs import make_photographs

EDGE = 96  # pixels of an image and of the backbone's input
COLUMNS = ("images", "build_mb", "query_mb", "gallery_mb")


def main() -> None:
    """Measure, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    check_outputs(arguments.json, arguments.json)
    found = environment()
    rows = [measure(count) for count in arguments.images]
    print("\n".join(table([COLUMNS, *([f"{row[name]:,.0f}" for name in COLUMNS] for row in rows)])))
    write_json(arguments.json, {**found, "input": EDGE, "rows": rows})
    if arguments.json:
        draw(rows, arguments.json.with_suffix(".png"))


def measure(count: int) -> Figures:
    """Return the peak megabytes of building a gallery of `count` images, and of queries of eight of them."""
    with tempfile.TemporaryDirectory() as folder:
        images, gallery = Path(folder, "images"), Path(folder, "gallery")
        make_photographs(images, count, EDGE)
        build = peak("build", images, gallery, "--backbone", "efficientnet-lite0", "--input-size", EDGE)
        query = peak("query", gallery, *sorted(images.iterdir())[:8], "--out", Path(folder, "found"))
        size = sum(path.stat().st_size for path in gallery.rglob("*") if path.is_file())
        return {"images": count, "build_mb": build, "query_mb": query, "gallery_mb": size / 1e6}


def peak(*arguments: object) -> float:
    """Run spade-index; return the largest resident size of its process in megabytes."""
    command = [sys.executable, "-m", "spade_index", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with {status}")
    return usage.ru_maxrss / 1e3  # kilobytes on Linux


def draw(rows: list[Figures], path: Path) -> None:
    """Draw peak memory against the number of images."""
    with picture(path, "Peak memory of a command", (5, 3.2)) as axes:
        for name in ("build_mb", "query_mb"):
            axes.plot([row["images"] for row in rows], [row[name] for row in rows], marker="o", label=name[:-3])
        axes.set(xscale="log", xlabel="images in the gallery", ylabel="MB", ylim=(0, None))
        axes.legend()
        tidy(axes, "y")


if __name__ == "__main__":
    main()
