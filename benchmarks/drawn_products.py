"""What `build` chooses for products that it never saw, and what that finds: four drawn ones, without a label.

Of each, several galleries are drawn, and built as a user builds them, and once more at the backbone's usual input size.
All judge the same test images: what chance did to one gallery, the others show.

python benchmarks/drawn_products.py --json benchmarks/results/drawn_products.json
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

import click

from spade_index.benchmarks.drawn_sets import PRODUCTS, draw_normal, draw_tests
from spade_index.benchmarks.harness import Figures, check_outputs, environment, table, write_json

IMAGES = 120  # normal ones of a gallery
GALLERIES = 3  # of a product
SIZES = {"chosen": [], "usual": ["--input-size", "224"]}  # options of `build`
COLUMNS = ("image_roc_auc", "pixel_roc_auc", "hit_rate", "false_alarm_rate")


def judged(tests: Path, images: Path, gallery: Path, backbone: str, *options: str) -> Figures:
    """Build a gallery as the command line does, and evaluate it with its defaults."""
    run("build", images, gallery, "--backbone", backbone, *options)
    found = gallery.with_suffix(".json")
    run("evaluate", tests, "--gallery", gallery, "--json", found)
    figures = json.loads(found.read_text())
    size = json.loads(run("info", gallery, "--json"))["settings"]["preprocessing"]["input_size"][0]
    return {"input_size": size, **{name: figures[name] for name in COLUMNS}, "search": figures["search"]}


def run(*command: object) -> str:
    """Run a command of the command line; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "spade_index", *map(str, command)], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def means(rows: list[Figures]) -> list[Figures]:
    """Return the mean figures of each product, as built and at the usual input size, over its galleries."""
    found = []
    for product in PRODUCTS:
        for size in SIZES:
            some = [row for row in rows if (row["product"], row["size"]) == (product, size)]
            sizes = sorted({row["input_size"] for row in some})
            figures = {name: mean(row[name] for row in some) for name in COLUMNS}
            found.append({"product": product, "size": size, "input_sizes": sizes, "galleries": len(some), **figures})
    return [row for row in found if row["galleries"]]


@click.command(help=__doc__)
@click.option("--images", default=IMAGES, show_default=True, help="Normal images of each gallery.")
@click.option("--galleries", default=GALLERIES, show_default=True, help="Of each product.")
@click.option("--backbone", default="efficientnet-lite0", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(images: int, galleries: int, backbone: str, json_file: Path | None) -> None:
    check_outputs(json_file, picture=None)
    rows: list[Figures] = []
    with tempfile.TemporaryDirectory() as name:
        for product in PRODUCTS:
            folder = Path(name) / product
            tests = draw_tests(product, folder / "tests")
            for number in range(galleries):
                normal = draw_normal(product, folder / f"normal-{number}", images, number)
                for size, options in SIZES.items():
                    figures = judged(tests, normal, folder / f"{size}-{number}", backbone, *options)
                    rows.append({"product": product, "gallery": number, "size": size, **figures})
                    click.echo(f"{product} {number}, {size}: {figures}", err=True)
    found = means(rows)
    head = ("product", "size", "input sizes", "galleries", *COLUMNS)
    cells = ([*(str(row[name]) for name in ("product", "size", "input_sizes", "galleries")),
              *(f"{row[name]:.3f}" for name in COLUMNS)] for row in found)  # fmt: skip
    click.echo("\n".join(table([head, *cells])))
    write_json(json_file, {**environment(), "images": images, "means": found, "rows": rows})


if __name__ == "__main__":
    main()
