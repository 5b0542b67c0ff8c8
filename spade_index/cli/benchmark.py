"""`spade-index benchmark`: run the programs of benchmarks/ by name."""

import os
from importlib.util import find_spec
from pathlib import Path

import click

from spade_index.errors import InputError
from spade_index.exact import whole
from spade_index.settings import MODES, STORAGES

from . import parsing
from .options import device_option, whole_option
from .outputs import require_writable
from .values import MOST_IMAGES, MOST_WORKERS, PATH, REAL, WholeRange

PACKAGES = {"psutil": "psutil", "scikit-image": "skimage"}  # of the benchmarks, and their modules


@click.group()
def benchmark() -> None:
    """Measure what spade-index costs on this machine."""


@benchmark.command()
@click.option("--json", "json_file", type=PATH, help="Write the figures to this file.")
@click.option("--picture", type=PATH, help="Draw them, a PNG.")
@whole_option("--neighbours", 50, "K maps per query.")
@whole_option("--pixel-neighbours", 1, "Nearest pixels to find.", most=10)
@click.option("--mode", type=click.Choice(MODES), default=MODES[0], show_default=True, help="How levels are combined.")
@click.option("--sets", help="Comma-separated names: coffee, cat, camera, brick, grass, gravel, photos, tiles [all]")
@click.option("--tiles", type=PATH, help="A dataset in MVTec layout, as one more set.")
@click.option(
    "--shapes",
    type=click.Choice(["wrn", "native", "both"]),
    default="both",
    show_default=True,
    help="Features in the shapes of WideResNet50-2, or as efficientnet-lite0 makes them.",
)
@whole_option("--repeats", 3, "Rounds; medians are quoted.")
@click.option("--peers", help="Comma-separated contenders; an unknown one lists them [all]")
@whole_option("--peer-maps", 2, "Maps that peers are timed with; extrapolated to K.")
@whole_option("--input-size", 224, "Edge of the images.", least=32, most=1024)
def kernel(
    json_file: Path | None,
    picture: Path | None,
    neighbours: int,
    pixel_neighbours: int,
    mode: str,
    sets: str | None,
    tiles: Path | None,
    shapes: str,
    repeats: int,
    peers: str | None,
    peer_maps: int,
    input_size: int,
) -> None:
    """Time the pixel search against other implementations, on features of photographs; all are verified first."""
    _require_packages()
    require_writable([json_file, picture])
    from spade_index.benchmarks.pixel_search import Settings, run

    all_sets = Settings.sets if tiles is None else (*Settings.sets, "tiles")
    settings = Settings(
        sets=parsing.names(sets) or all_sets,
        shapes=Settings.shapes if shapes == "both" else (shapes,),
        tiles=tiles,
        neighbours=neighbours,
        pixel_neighbours=pixel_neighbours,
        mode=mode,
        contenders=parsing.names(peers) or Settings.contenders,
        repeats=repeats,
        peer_maps=peer_maps,
        input_size=input_size,
    )
    run(settings, json_file, picture, click.echo)


@benchmark.command()
@click.option("--photographs", type=PATH, required=True, help="A folder or .tar of some thousand images.")
@click.option(
    "--work",
    type=PATH,
    required=True,
    help="A new folder for the gallery, some GB.",
)
@click.option("--json", "json_file", type=PATH, help="Write the figures to this file.")
@click.option("--picture", type=PATH, help="Draw latency and memory, a PNG.")
@click.option(
    "--sizes",
    default="1000,10000,100000,1000000",
    show_default=True,
    help="Comma-separated sizes of the gallery, in images.",
)
@click.option("--storage", type=click.Choice(STORAGES), default="sq8", show_default=True, help="Of inverted lists.")
@whole_option("--queries", 1000, "Photographs to query with.", least=20)
@click.option("--peers", help="Comma-separated, or none: flat, hnswlib [all]")
@click.option("--peer-minutes", type=REAL, default=30, show_default=True, help="Time that a peer may take at a size.")
@whole_option("--input-size", 64, "Edge of the images.", least=32, most=1024)
@click.option("--keep", is_flag=True, help="Keep that folder.")
def gallery(
    photographs: Path,
    work: Path,
    json_file: Path | None,
    picture: Path | None,
    sizes: str,
    storage: str,
    queries: int,
    peers: str | None,
    peer_minutes: float,
    input_size: int,
    keep: bool,
) -> None:
    """Measure a growing gallery beside peers: latency, recall and memory of its index; disk space; a cold query."""
    _require_packages()
    require_writable([json_file, picture], [work], inputs=[photographs])
    from spade_index.benchmarks.gallery_growth import Settings, run

    try:
        counts = tuple(whole(size) for size in sizes.split(","))
    except ValueError as error:
        raise InputError(f"--sizes: {sizes!r} is not a comma-separated list of numbers") from error
    settings = Settings(
        photographs=photographs,
        work=work,
        sizes=counts,
        storage=storage,
        queries=queries,
        peers=() if peers == "none" else parsing.names(peers) or Settings.peers,
        peer_minutes=peer_minutes,
        input_size=input_size,
        keep=keep,
    )
    run(settings, json_file, picture, click.echo)


@benchmark.command()
@click.option("--json", "json_file", type=PATH, help="Write the figures to this file.")
@click.option("--picture", type=PATH, help="Draw them, a PNG.")
@click.option(
    "--photographs",
    type=PATH,
    help="A folder, .tar, text list or file of images [synthetic ones]",
)
@click.option("--images", type=WholeRange(1), help="Take the first N [all; 8,000 synthetic images]")
@whole_option("--input-size", 64, "Edge of the images.", least=32, most=1024)
@whole_option("--batch-size", 32, "Images per batch.", most=MOST_IMAGES)
@click.option(
    "--workers",
    type=WholeRange(1, MOST_WORKERS),
    default=os.cpu_count() or 2,
    help="Decoding processes [one per core]",
)
@click.option("--backbone", default="efficientnet-lite0", show_default=True, help="As in `build`.")
@device_option
@click.option(
    "--slice",
    "slice_images",
    type=WholeRange(1),
    default=4000,
    show_default=True,
    help="The backbone alone is timed for every N images.",
)
@click.option("--work", type=PATH, help="A folder to work in [a temporary folder]")
@click.option("--keep", is_flag=True, help="Keep the gallery in that folder.")
def ingest(
    json_file: Path | None,
    picture: Path | None,
    photographs: Path | None,
    images: int | None,
    input_size: int,
    batch_size: int,
    workers: int,
    backbone: str,
    device: str,
    slice_images: int,
    work: Path | None,
    keep: bool,
) -> None:
    """Time the ingest of images into a gallery against the backbone alone, and its memory; verifies the gallery."""
    _require_packages()
    require_writable([json_file, picture], [work], inputs=filter(None, [photographs]))
    from spade_index.benchmarks.ingest import Settings, run

    settings = Settings(
        photographs=photographs,
        images=images,
        input_size=input_size,
        batch_size=batch_size,
        workers=workers,
        backbone=backbone,
        device=device,
        slice_images=slice_images,
        work=work,
        keep=keep,
    )
    run(settings, json_file, picture, click.echo)


def _require_packages() -> None:
    """Raise InputError, with the command that installs them, if packages of the benchmarks are missing."""
    if missing := [name for name, module in PACKAGES.items() if find_spec(module) is None]:
        raise InputError(f"benchmarks need {' and '.join(missing)}: pip install {' '.join(missing)}")
