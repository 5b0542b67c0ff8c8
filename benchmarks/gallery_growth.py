"""What does a gallery cost as it grows? `spade-index benchmark gallery`: one gallery of 1,000 to 1,000,000 images.

    python benchmarks/gallery_growth.py --photographs cifar10.tar --work DIR --json growth.json --picture growth.png

1. Real photographs first, then descriptors drawn around real ones (growth_data.py). Photographs that tune and test are
   never in the gallery.
2. At each size the index is built as `spade-index index --queries` does, what it finds is verified, and then measured,
   each in a process of its own (growth_measure.py, growth_stages.py); peers on the same descriptors (growth_peers.py).
3. All that was measured is kept in WORK/sizes, and the gallery in WORK/gallery: the same command carries on.
"""

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spade_index.benchmarks.environment import environment
from spade_index.benchmarks.growth_pictures import draw_latency, draw_memory
from spade_index.benchmarks.growth_process import in_own_process, machine_memory
from spade_index.benchmarks.growth_report import costs, table
from spade_index.benchmarks.growth_sizes import LEAST, Settings, Work
from spade_index.errors import InputError
from spade_index.images import find_images

Entry = dict[str, Any]


def run(settings: Settings, json_file: Path | None, picture: Path | None, say: Callable[[str], None]) -> Entry:
    """Measure all sizes, print the tables, write JSON after each size, and the pictures at the end."""
    if picture is not None and find_spec("matplotlib") is None:
        raise InputError(f"{picture}: a picture needs matplotlib: pip install matplotlib")
    for path in filter(None, (json_file, picture)):
        if not path.parent.is_dir():
            raise InputError(f"{path}: no such folder")
    photographs = sum(1 for _ in find_images(settings.photographs))
    if photographs < 2 * LEAST:
        raise InputError(f"{settings.photographs}: {photographs} photographs are too few: give at least {2 * LEAST}")
    held = min(2 * settings.queries, photographs // 3)
    results = _results(settings, photographs, held)
    _write(results, json_file)
    work = Work(settings, held)
    work.claim(photographs)
    say(f"features of {photographs:,} photographs")
    of = in_own_process("growth_data:extract", settings.work, settings.photographs, settings.input_size, held)
    results |= {name: of[name] for name in ("real", "dim", "map_bytes")}
    if work.images():
        in_own_process("growth_data:tidy", settings.work, held)
    for size in sorted(settings.sizes):
        if reason := work.unfit(size, of):
            results["sizes_left_out"][f"{size}"] = reason
            say(f"{size:,} images: left out, {reason}")
        else:
            results["sizes"].append(work.measure(size, of, results["sizes"], say))
        _write(results, json_file)
    if results["sizes"]:
        say("\n" + table(results) + "\n\n" + costs(results))
    if picture is not None and results["sizes"]:
        draw_latency(results, picture)
        draw_memory(results, picture.with_stem(f"{picture.stem}_memory"))
    if not settings.keep:
        shutil.rmtree(work.gallery, ignore_errors=True)
    return results


def _results(settings: Settings, photographs: int, held: int) -> Entry:
    read_ahead = sorted(Path("/sys/block").glob("*/queue/read_ahead_kb"))
    return {
        **environment(),
        "memory_gb": machine_memory("MemTotal") / 1e9,
        "read_ahead_kb": {path.parts[3]: int(path.read_text()) for path in read_ahead},
        "photographs": photographs,
        "held_out": held,
        "test_queries": held // 2,
        "tuning_queries": held // 4,
        "storage": settings.storage,
        "peer_minutes": settings.peer_minutes,
        "sizes_left_out": {},
        "sizes": [],
    }


def _write(results: Entry, file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    from spade_index.cli import main

    main(["benchmark", "gallery", *sys.argv[1:]])
