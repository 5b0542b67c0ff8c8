"""Is bfloat16 faster on this processor, and how far do features move?

    python benchmarks/backbone_precision.py --json benchmarks/results/backbone_precision.json

Both precisions run in turn on the same batch of crops of photographs; medians and their ratio are reported. The error
is that of squared distances between pooled descriptors of different images, relative to float32. `wide_resnet50_2` has
random weights here, which are good for its speed, and give an upper bound of the error at best.
"""

import tempfile
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch

from spade_index import find_images, load_backbone
from spade_index.benchmarks.harness import Figures, environment, medians, table, take_turns, timed, write_json
from spade_index.benchmarks.photographs import make_photographs
from spade_index.images import load

BATCH, EDGE, ROUNDS = 8, 224, 7
COLUMNS = ("backbone", "float32_ms", "bfloat16_ms", "ratio", "distance_error")


@click.command(help=__doc__)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(json_file: Path | None) -> None:
    """Measure, print a table, write JSON."""
    from torchvision import models

    found = environment()
    with tempfile.TemporaryDirectory() as folder:
        make_photographs(Path(folder, "photographs"), BATCH, EDGE)
        weights = Path(folder, "wide_resnet50_2.pth")
        torch.manual_seed(0)
        torch.save(models.get_model("wide_resnet50_2", weights=None).state_dict(), weights)
        rows = [measure(Path(folder), "efficientnet-lite0"), measure(Path(folder), "wide_resnet50_2", weights)]
    cells = [[row["backbone"], *(f"{row[name]:.4g}" for name in COLUMNS[1:])] for row in rows]
    click.echo("\n".join(table([COLUMNS, *cells])))
    write_json(json_file, {**found, "batch": BATCH, "rows": rows})


def measure(folder: Path, name: str, weights: Path | None = None) -> Figures:
    """Return milliseconds per image in each precision, and the median relative error of distances."""
    backbones = {p: load_backbone(name, weights=weights, device="cpu", precision=p) for p in ("float32", "bfloat16")}
    preprocessing = backbones["float32"].settings.preprocessing
    files = find_images(folder / "photographs")
    batch = np.stack([load(file, preprocessing).pixels for file in files])  # uint8 [BATCH, EDGE, EDGE, 3]
    pooled = [backbone(batch).pooled for backbone in backbones.values()]  # also warms up
    runs = {f"{precision}_ms": partial(timed, partial(backbone, batch)) for precision, backbone in backbones.items()}
    rounds = take_turns(runs, ROUNDS)
    found = {name: medians([{name: 1e3 * seconds / BATCH} for _, seconds in of])[name] for name, of in rounds.items()}
    exact, rounded = (torch.pdist(descriptors.double()) ** 2 for descriptors in pooled)
    return {
        "backbone": name,
        **found,
        "ratio": found["float32_ms"] / found["bfloat16_ms"],
        "distance_error": ((rounded - exact).abs() / exact).median().item(),
    }


if __name__ == "__main__":
    main()
