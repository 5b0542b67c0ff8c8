"""The command line: click over gallery and detector."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
import numpy as np

# What needs torch, which takes seconds to import, is imported by the commands that use it.
from .catalog import ImageRow
from .cli_benchmark import benchmark
from .cli_info import described
from .cli_options import (
    Progress,
    backbone_options,
    device_option,
    kernel_options,
    loading_options,
    make_backbone,
    make_kernel,
    make_search,
    maps_option,
    preset_option,
    search_options,
)
from .cli_serve import serve
from .errors import InputError, SpadeIndexError
from .gallery import Gallery
from .images import ImageFile, find_images
from .index import DIMENSIONS, MEMORY, RECALL_TARGET, STORAGES
from .loading import load_all
from .verify import Problem, bytes_to_check, find_problems
from .writer import GalleryWriter

MANY = 500  # images, for which it pays to start decoding processes

gallery_argument = click.argument("gallery", type=click.Path(path_type=Path))
images_argument = click.argument("images", type=click.Path(path_type=Path))


class Commands(click.Group):
    """Translates what the core raises into one line and exit status 1."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(context)
        except SpadeIndexError as error:
            message = str(error)
        except KeyboardInterrupt:
            message = "interrupted; what was committed is safe, and the same command carries on"
        except BrokenPipeError:  # the reader of the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            message = f"{error.filename or 'input or output'}: {error.strerror or error}"
        click.echo(f"spade-index: {' '.join(message.split())}", err=True)
        sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spade_index")
def main() -> None:
    """Find what is not normal in images, by a gallery of normal ones."""


main.add_command(benchmark)
main.add_command(serve)


@main.command()
@images_argument
@gallery_argument
@backbone_options
@preset_option
@device_option
@loading_options
@click.option("--prefix", default="", help="Put before each image id.")
@click.option("--replace", is_flag=True, help="Take changed images in place of the ones with their ids.")
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be decoded.")
def build(images: Path, gallery: Path, **options: Any) -> None:
    """Create GALLERY from normal IMAGES (a folder, a tar archive, a text list or one file), or carry on building it."""
    _require_images([images])
    there = _open_if_there(gallery)
    weights_file = options["weights"]
    backbone = make_backbone(options, there)
    with GalleryWriter(gallery, backbone.settings, weights_file) as writer:
        _add(writer, [images], backbone, options)


@main.command()
@gallery_argument
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@backbone_options
@device_option
@loading_options
@click.option("--prefix", default="", help="Put before each image id.")
@click.option("--replace", is_flag=True, help="Take changed images in place of the ones with their ids.")
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be decoded.")
def add(gallery: Path, images: tuple[Path, ...], **options: Any) -> None:
    """Add normal IMAGES to GALLERY."""
    _require_images(images)
    with Gallery(gallery) as recorded:
        backbone = make_backbone(options, recorded)
    with GalleryWriter(gallery) as writer:
        _add(writer, images, backbone, options)


@main.command()
@gallery_argument
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def remove(gallery: Path, ids: tuple[str, ...]) -> None:
    """Remove images by ID, all of them or none. Until `compact` they take room, and `restore` takes them back."""
    with GalleryWriter(gallery) as writer:
        snapshot = writer.remove(ids)
        images = f"{len(writer.gallery):,} images at snapshot {snapshot}"
        click.echo(f"{len(set(ids)):,} removed (`restore` takes them back, until `compact`); {images}")


@main.command()
@gallery_argument
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def restore(gallery: Path, ids: tuple[str, ...]) -> None:
    """Take back the removal of images by ID, all of them or none. `list --removed` names those that can be."""
    with GalleryWriter(gallery) as writer:
        snapshot = writer.restore(ids)
        click.echo(f"{len(set(ids)):,} restored; {len(writer.gallery):,} images at snapshot {snapshot}")


@main.command(name="list")
@gallery_argument
@click.option("--long", "long_", is_flag=True, help="Also size in pixels, snapshot, and where the image came from.")
@click.option("--snapshot", type=int, help="As of this snapshot [the latest]")
@click.option("--removed", is_flag=True, help="Those that `restore` can take back instead.")
def list_(gallery: Path, long_: bool, snapshot: int | None, removed: bool) -> None:
    """Name the images of GALLERY, one a line."""

    def line(row: ImageRow) -> str:
        return f"{row.id}\t{row.width}x{row.height}\t{row.added}\t{row.path}" if long_ else row.id

    if removed and snapshot is not None:
        raise click.UsageError("--removed has no --snapshot: what can be restored is what is not there now")
    with Gallery(gallery, snapshot) as opened:
        for row in opened.removed_images() if removed else opened.images():
            click.echo(line(row))


@main.command()
@gallery_argument
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(gallery: Path, as_json: bool) -> None:
    """Describe GALLERY: images, settings, index, thresholds, snapshots."""
    with Gallery(gallery) as opened:
        facts = opened.info()
    click.echo(json.dumps(facts, indent=2) if as_json else described(facts))


@main.command()
@gallery_argument
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for score maps, heat maps and report.html.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image.")
@click.option("--threshold", type=float, help="Call images anomalous above this score [the calibrated one]")
@click.option("--snapshot", type=int, help="Compare with the gallery as of this snapshot [the latest]")
@search_options
@maps_option
@preset_option
@backbone_options
@device_option
@kernel_options
@loading_options
def query(
    gallery: Path,
    images: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
    threshold: float | None,
    snapshot: int | None,
    **options: Any,
) -> None:
    """Score IMAGES against GALLERY, and show where they are not normal."""
    from .cli_query import Query
    from .detector import Detector

    _require_images(images)
    with Gallery(gallery, snapshot) as opened:
        backbone = make_backbone(options, opened)
        search = make_search(options)
        detector = Detector(opened, backbone, search, threshold, **make_kernel(options))
        if search.maps != "never":
            Progress.note(f"pixel search by {detector.kernel}")
        if threshold is None and detector.calibrated_on not in (None, opened.snapshot):
            click.echo(
                f"the threshold was chosen on snapshot {detector.calibrated_on}, this is {opened.snapshot}: "
                f"`spade-index calibrate {gallery}` chooses it anew",
                err=True,
            )
        run = Query(detector, out, as_json)
        run.run(lambda: _files(images), options["batch_size"], options["workers"])
    if run.failed:
        raise InputError(f"{run.failed:,} of the images could not be decoded")


@main.command()
@gallery_argument
@click.option(
    "--storage",
    type=click.Choice(STORAGES),
    help="What large galleries' lists hold: float32, float16, 8 bits a value, or a product quantizer's codes "
    "[as before; sq8]. Distances are computed again from the stored descriptors either way.",
)
@click.option(
    "--dimensions",
    type=click.IntRange(0),
    help=f"Principal components that lists hold of longer descriptors; 0: all values [as before; {DIMENSIONS}]",
)
@click.option("--recall", type=float, help=f"Of the 50 nearest images, to reach [as before; {RECALL_TARGET:g}]")
@click.option("--memory", type=click.IntRange(64), help=f"MiB that building may take [{MEMORY >> 20:,}]")
@click.option(
    "--queries",
    type=click.Path(path_type=Path),
    help="Images like those that will be searched for, to reach the recall with [as before; some of the gallery's own]",
)
@backbone_options
@device_option
@loading_options
def index(gallery: Path, queries: Path | None, **options: Any) -> None:
    """Build the FAISS index of GALLERY anew."""
    memory = options.pop("memory")
    changes = {name: options.pop(name) for name in ("storage", "dimensions", "recall")}
    changes["memory"] = memory and memory << 20
    pooled = _pooled(gallery, queries, options) if queries else None
    with GalleryWriter(gallery) as writer:
        changes = {name: value for name, value in changes.items() if value is not None}
        chosen = replace(writer.index_settings(), **changes)
        built = writer.build_index(chosen, pooled, Progress.note)
    click.echo(str(built))
    if built.recall < built.target:
        click.echo(
            f"the recall is below {built.target:g}: take another storage, or fewer neighbours will be found", err=True
        )


@main.command()
@gallery_argument
@search_options
@preset_option
@device_option
@kernel_options
@click.option("--quantile", type=float, default=0.99, show_default=True, help="Of normal images below the threshold.")
@click.option("--sample", type=click.IntRange(1), default=200, show_default=True, help="Images to score at most.")
def calibrate(gallery: Path, quantile: float, sample: int, **options: Any) -> None:
    """Choose thresholds from GALLERY's own images: a quantile of their leave-one-out scores."""
    from . import calibration
    from .backbone import choose_device

    search = make_search(options)
    where = make_kernel(options) | {"device": choose_device(options.pop("device"))}
    with GalleryWriter(gallery) as writer:
        total = min(sample, len(writer.gallery))
        with Progress("calibrate", total) as progress:
            chosen = calibration.calibrate(
                writer.gallery, search, quantile=quantile, sample=sample, progress=progress, **where
            )
        calibration.store(writer, search, chosen)
    thresholds: Any = chosen["thresholds"]
    click.echo(f"{calibration.RULE} ({chosen['images']} images, quantile {quantile:g})")
    for kind, threshold in thresholds.items():
        click.echo(f"{kind:8} {threshold:.6g}")


@main.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--gallery", type=click.Path(path_type=Path), help="Use this gallery [build one from train/good]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a page with figures and examples to this file.")
@click.option(
    "--metric-size",
    type=click.IntRange(16),
    help="Edge at which pixels are compared [the input's; 256 with the preset]",
)
@search_options
@preset_option
@backbone_options
@device_option
@kernel_options
@loading_options
def evaluate(dataset: Path, gallery: Path | None, **options: Any) -> None:
    """Measure ROC AUC and PRO on a DATASET in MVTec layout: train/good, test/KIND, ground_truth/KIND."""
    from .cli_evaluate import run

    run(dataset, gallery, options)


@main.command()
@gallery_argument
@click.option("--repair", is_flag=True, help="Drop images that are damaged, name them, and keep the rest usable.")
def verify(gallery: Path, repair: bool) -> None:
    """Check every file of GALLERY against what was committed."""
    if repair:
        _repair(gallery)
        return
    with Gallery(gallery) as opened:
        if problems := _problems(opened):
            raise InputError(
                f"{gallery}: {len(problems):,} problems; restore the files from a copy, build it again, or "
                f"`spade-index verify {gallery} --repair` drops what is damaged"
            )
        click.echo(f"{gallery}: {len(opened):,} images at snapshot {opened.snapshot}, no problems")


@main.command()
@gallery_argument
def compact(gallery: Path) -> None:
    """Reclaim the room of removed images and merge small shards. Removed images and earlier snapshots are forgotten."""
    with GalleryWriter(gallery) as writer:
        with Progress("compact", writer.images_to_move()) as progress:
            freed = writer.compact(progress)
        when = "freed" if writer.forget() else "to be freed by the next command that writes after readers have closed"
        click.echo(
            f"{len(writer.gallery):,} images at snapshot {writer.gallery.snapshot}, {freed / 1e6:,.1f} MB {when}"
        )


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder to use.")
def demo(out: Path) -> None:
    """Build, query and evaluate on photographs of textures with made defects; needs no data and no download."""
    from .demo import run_demo

    run_demo(out, say=click.echo)


def _problems(gallery: Gallery) -> list[Problem]:
    """Find and print all problems."""
    problems = []
    with Progress("verify", bytes_to_check(gallery), unit="B") as progress:
        for problem in find_problems(gallery, progress):
            problems.append(problem)
            progress.say(problem.line)
    return problems


def _repair(path: Path) -> None:
    with GalleryWriter(path) as writer:
        problems = _problems(writer.gallery)
        images = len(writer.gallery) if any(problem.lost for problem in problems) else 0
        with Progress("repair", images) as progress:
            dropped = writer.repair(problems, progress.say, progress)
        now = f"{len(writer.gallery):,} images at snapshot {writer.gallery.snapshot}"
    click.echo(f"{path}: {f'{dropped:,} images dropped; ' if problems else ''}{now}, no problems")


def _require_images(sources: Iterable[Path]) -> None:
    for source in sources:
        if next(find_images(source), None) is None:
            raise InputError(f"{source}: no images in it (JPEG, PNG, BMP, TIFF, WebP)")


def _files(sources: Iterable[Path], prefix: str = "") -> Iterable[ImageFile]:
    return chain.from_iterable(find_images(source, prefix) for source in sources)


def _pooled(gallery: Path, images: Path, options: dict[str, Any]) -> np.ndarray:
    """Pooled descriptors of images, float32 [n, D], by the gallery's backbone."""
    _require_images([images])
    with Gallery(gallery) as recorded:
        backbone = make_backbone(options, recorded)
        recorded.settings.require_equal(backbone.settings, str(gallery))
    loaded = load_all(
        find_images(images),
        backbone.settings.preprocessing,
        workers=options["workers"],
        ahead=2 * options["batch_size"],
        on_error=lambda error: Progress.say(f"skipped {error}"),
    )
    descriptors = [backbone(np.stack([image.pixels])).pooled.cpu().numpy() for image in loaded]
    if not descriptors:
        raise InputError(f"{images}: none of its images could be decoded")
    return np.concatenate(descriptors)


def _open_if_there(path: Path) -> Gallery | None:
    return Gallery(path) if (path / "catalog.sqlite").exists() else None


def _add(writer: GalleryWriter, sources: Iterable[Path], backbone: Any, options: dict[str, Any]) -> None:
    sources = list(sources)
    total = sum(1 for _ in _files(sources)) if sys.stderr.isatty() else None
    with Progress("add", total) as progress:
        report = writer.add(
            _files(sources, options["prefix"]),
            backbone,
            replace=options["replace"],
            strict=options["strict"],
            batch_size=options["batch_size"],
            workers=options["workers"],
            processes=sum(1 for _ in islice(_files(sources), MANY)) == MANY,
            notice=progress.say,
            progress=progress,
        )
    if report.failed and not len(writer.gallery):
        raise InputError(f"none of {report.failed:,} images could be decoded")
    if writer.index_is_stale():
        try:
            writer.build_index()
        except InputError as error:  # new images are found without
            Progress.say(f"the index was not built again: {error}")
    click.echo(f"{report}; {len(writer.gallery):,} images at snapshot {writer.gallery.snapshot}")
