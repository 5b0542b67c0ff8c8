"""What `build` chooses for products that it never saw, and what that finds: four drawn ones, without a label.

Each is built as a user builds it, and once more at the backbone's usual input size; then all test images are judged.

python benchmarks/drawn_products.py --json benchmarks/results/drawn_products.json
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from spade_index.benchmarks.drawn_sets import PRODUCTS, draw
from spade_index.benchmarks.harness import Figures, check_outputs, environment, table, write_json

IMAGES = 120  # normal ones of a product
USUAL = 224  # pixels
COLUMNS = ("image_roc_auc", "pixel_roc_auc", "hit_rate", "false_alarm_rate", "backbone_ms", "search_ms")


def judged(dataset: Path, gallery: Path, backbone: str, *options: str) -> Figures:
    """Build a gallery of a dataset as the command line does, and evaluate it with its defaults."""
    run("build", dataset / "train" / "good", gallery, "--backbone", backbone, *options)
    found = gallery.with_suffix(".json")
    run("evaluate", dataset, "--gallery", gallery, "--json", found)
    figures = json.loads(found.read_text())
    times = {
        "backbone_ms": 1e3 * figures["seconds"]["backbone"] / figures["images"],
        "search_ms": 1e3 * figures["seconds"]["search_per_image"],
    }
    size = json.loads(run("info", gallery, "--json"))["settings"]["preprocessing"]["input_size"][0]
    return {"input_size": size, **{name: (figures | times)[name] for name in COLUMNS}, "search": figures["search"]}


def run(*command: object) -> str:
    """Run a command of the command line; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "spade_index", *map(str, command)], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@click.command(help=__doc__)
@click.option("--images", default=IMAGES, show_default=True, help="Normal images of each product.")
@click.option("--backbone", default="efficientnet-lite0", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(images: int, backbone: str, json_file: Path | None) -> None:
    check_outputs(json_file, picture=None)
    rows: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        for product in PRODUCTS:
            dataset = draw(product, Path(folder) / product, images)
            for size, options in (("chosen", []), ("usual", ["--input-size", str(USUAL)])):
                figures = judged(dataset, Path(folder) / f"{product}-{size}", backbone, *options)
                rows.append({"product": product, "size": size, **figures})
                click.echo(f"{product}, {size}: {figures}", err=True)
    head = ("product", "input_size", *COLUMNS)
    cells = ([row["product"], str(row["input_size"]), *(f"{row[name]:.3f}" for name in COLUMNS)] for row in rows)
    click.echo("\n".join(table([head, *cells])))
    write_json(json_file, {**environment(), "images": images, "rows": rows})


if __name__ == "__main__":
    main()
