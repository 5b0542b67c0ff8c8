"""What does storing maps in codes cost, and how fast are they searched? The same test images, with each codec.

A gallery is built and tuned as `build` does it, and another one with maps as float16, which is searched in the same
way. A copy of that is stored by each codec, calibrated and evaluated. Then images of the gallery are searched for,
with maps in memory as values, in memory as codes, and read for each query (from the system's cache).

python benchmarks/codecs.py DATASET... --json benchmarks/results/codecs.json
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import click
import torch
from torch import Tensor

from spade_index.benchmarks.ablation import backbones, calibrate
from spade_index.benchmarks.harness import (
    Figures,
    WrongResult,
    environment,
    plain,
    table,
    take_turns,
    timed,
    write_json,
)
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.store.codecs import KINDS
from spade_index.gallery.write.levels import tuned_levels
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.kernels import MapPool, choose_kernel, nearest_pixels
from spade_index.method import tuning
from spade_index.method.comparison import Comparison
from spade_index.method.dataset import build_gallery, find_test_images
from spade_index.method.detector import Detector
from spade_index.method.evaluation import evaluate
from spade_index.method.storage_loss import StorageLoss
from spade_index.method.tuned import tuned_search
from spade_index.settings import SearchSettings

QUERIES, ROUNDS = 20, 15
SAME = 1e-2  # relative: the torch backend prepares several maps at a time, which may be rounded otherwise
ACCURACY = ("image_roc_auc", "pixel_roc_auc", "hit_rate", "false_alarm_rate")
TIMES = ("values_ms", "codes_ms", "read_ms")
Way = tuple[MapPool, bool]  # a pool, and whether it forgets its maps before each query


def stored(gallery: Path, dataset: Path, backbone: Backbone) -> Iterator[Figures]:
    """Yield the figures of a gallery of float16 maps, and of copies of it in each codec."""
    with Gallery(gallery) as opened:
        tuned = tuned_levels(opened)
    yield measured(gallery, dataset, backbone)
    for codec, levels in [*((codec, None) for codec in KINDS[1:]), (KINDS[-1], tuned)]:
        copy = shutil.copytree(gallery, gallery.with_name(f"{codec}-{len(levels or ())}"))
        with GalleryWriter(copy) as writer:
            loss = StorageLoss(writer.gallery, backbone)
            writer.compact(maps=codec, levels=levels)
            lost = loss.after(writer.gallery)
            calibrate(writer, tuned_search(writer.gallery))
        yield {**measured(copy, dataset, backbone), "synthetic_defects": lost}
        shutil.rmtree(copy)


def measured(path: Path, dataset: Path, backbone: Backbone) -> Figures:
    """Return what a gallery's maps take, what it finds in its dataset, and the milliseconds of its searches."""
    with Gallery(path) as gallery:
        storage, shapes = gallery.storage, gallery.settings.level_shapes
        detector = Detector(gallery, backbone)
        summary = evaluate(detector, find_test_images(dataset)).summary(detector.kind)
        return {
            "maps": gallery.codec,
            "levels": list(gallery.stored_levels),
            "map_bytes_per_image": storage.map_bytes(gallery.settings),
            "to_float16_of_all_levels": storage.map_bytes(gallery.settings) / sum(2 * c * h * w for c, h, w in shapes),
            "shard_bytes": sum(file.stat().st_size for file in (path / "shards").iterdir()),
            **{name: summary[name] for name in ACCURACY},
            **searched(gallery, tuned_search(gallery)),
        }


def searched(gallery: Gallery, search: SearchSettings) -> Figures:
    """Return the milliseconds that the pixel search of an image takes, in the median, and what is read for it."""
    comparison, kernel = Comparison(gallery, search), choose_kernel("cpu")
    rows = gallery.sample(QUERIES)
    near = gallery.nearest(gallery.pooled(rows), search.gallery_neighbours)
    wanted = [[neighbour.key for neighbour in of] for of in near]
    levels = [gallery.maps([row.key]) for row in rows]
    queries = [comparison.prepare([torch.from_numpy(level).float() for level in of]) for of in levels]
    shape = comparison.sizes, comparison.channels
    slots = len({key for keys in wanted for key in keys})
    pool = partial(MapPool, 1, *shape, at_least=slots)
    values, codes = pool(comparison.read), pool(comparison.read_codes, coding=comparison.coding)

    def ask(way: Way) -> tuple[list[Tensor], float]:
        return timed(partial(answers, way, queries, wanted, comparison, search, kernel.backend))

    ways: dict[str, Way] = {"values_ms": (values, False), "codes_ms": (codes, False), "read_ms": (codes, True)}
    expected, _ = ask(ways["values_ms"])
    for name, way in ways.items():
        for one, other in zip(ask(way)[0], expected, strict=True):
            if not torch.allclose(one, other, rtol=SAME, atol=SAME * float(other.max())):
                raise WrongResult(f"{name}: {float((one - other).abs().max())} from what values give")
    turns = take_turns({name: partial(ask, way) for name, way in ways.items()}, ROUNDS)
    before = codes.stats.bytes_moved
    ask((codes, True))
    return {
        "kernel": str(kernel),
        **{name: 1e3 * median(seconds for _, seconds in of) / QUERIES for name, of in turns.items()},
        "read_bytes": (codes.stats.bytes_moved - before) / QUERIES,
        "memory_bytes_per_image": {"values": values.bytes / values.slots, "codes": codes.bytes / codes.slots},
    }


def answers(
    way: Way,
    queries: Sequence[Sequence[Tensor]],
    wanted: Sequence[Sequence[int]],
    comparison: Comparison,
    search: SearchSettings,
    backend: str,
) -> list[Tensor]:
    """Search queries one at a time; return their distances."""
    pool, forgets = way
    found = []
    for query, keys in zip(queries, wanted, strict=True):
        if forgets:
            pool.forget()
        pages = pool.fetch([keys])
        distances, _ = nearest_pixels(
            query,
            pool.maps,
            pages,
            search.pixel_neighbours,
            sizes=comparison.sizes,
            weights=comparison.weights,
            window=search.window,
            backend=backend,
        )
        found.append(distances)
    return found


@click.command(help=__doc__)
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--backbone", default="efficientnet-lite0", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(datasets: tuple[Path, ...], backbone: str, json_file: Path | None) -> None:
    """Measure every dataset, print a table of each, and write the figures."""
    figures: Figures = {**environment(), "datasets": {}}
    for dataset in datasets:
        _, chosen = backbones(dataset, backbone)
        with tempfile.TemporaryDirectory(prefix="spade-index-") as name:
            work = Path(name)
            with build_gallery(dataset, work / "built", chosen) as built:
                tuned = tuning.tune(built, chosen)
            build_gallery(dataset, work / "gallery", chosen, maps=KINDS[0]).close()
            with GalleryWriter(work / "gallery") as writer:
                tuning.store(writer, tuned)
                search = tuned_search(writer.gallery)
                calibrate(writer, search)
                of = {"images": len(writer.gallery), "level_shapes": writer.gallery.settings.level_shapes}
            rows = list(stored(work / "gallery", dataset, chosen))
        figures["datasets"][dataset.name] = {**of, "search": plain(search), "rows": rows}
        columns = ("map_bytes_per_image", *ACCURACY, *TIMES)
        cells = [[f"{row['maps']} of {row['levels']}", *(f"{row[name]:.4g}" for name in columns)] for row in rows]
        click.echo("\n".join([dataset.name, *table([["maps", *columns], *cells])]))
        write_json(json_file, figures)


if __name__ == "__main__":
    main()
