"""Is bfloat16 faster on this processor, and do features survive it? Why it has to be asked for.

    python benchmarks/backbone_precision.py --json benchmarks/results/backbone_precision.json

Both precisions run in turn on the same batches of crops of photographs; quoted are medians and their ratio. The error
is that of squared distances between pooled descriptors of different images, relative to float32. What bfloat16 does to
ROC AUC is in the results of `spade-index evaluate`, which were made with both. `wide_resnet50_2` has random weights
here: good for its speed, and an upper bound of the error at best.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch

from spade_index import load_backbone
from spade_index.benchmarks.harness import environment

BATCH, EDGE, ROUNDS = 8, 224, 7


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = environment()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "wide_resnet50_2.pth")
        torch.save(random_weights("wide_resnet50_2"), weights)
        rows = [measure("efficientnet-lite0", None), measure("wide_resnet50_2", weights)]
    print(f"{'backbone':20}{'float32 ms':>12}{'bfloat16 ms':>12}{'ratio':>8}{'error':>10}")
    for row in rows:
        float32, bfloat16 = row["float32_ms"], row["bfloat16_ms"]
        print(f"{row['backbone']:20}{float32:12.1f}{bfloat16:12.1f}{row['ratio']:8.2f}{row['distance_error']:10.4f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**found, "batch": BATCH, "rows": rows}, indent=2) + "\n")


def measure(name: str, weights: Path | None) -> dict[str, Any]:
    """Milliseconds per image in each precision, and the median relative error of distances."""
    backbones = {p: load_backbone(name, weights=weights, device="cpu", precision=p) for p in ("float32", "bfloat16")}
    batch = crops()
    pooled = {precision: backbone(batch).pooled for precision, backbone in backbones.items()}  # also warms up
    times: dict[str, list[float]] = {precision: [] for precision in backbones}
    for _ in range(ROUNDS):
        for precision, backbone in backbones.items():
            started = time.perf_counter()
            backbone(batch)
            times[precision].append(1e3 * (time.perf_counter() - started) / BATCH)
    pairs = torch.triu_indices(BATCH, BATCH, 1)
    exact, rounded = (((p[pairs[0]] - p[pairs[1]]) ** 2).sum(1) for p in pooled.values())
    medians = {f"{precision}_ms": statistics.median(values) for precision, values in times.items()}
    return {
        "backbone": name,
        **medians,
        "ratio": medians["float32_ms"] / medians["bfloat16_ms"],
        "distance_error": ((rounded - exact).abs() / exact).median().item(),
    }


def crops() -> np.ndarray:
    """Crops of photographs, uint8 [BATCH, EDGE, EDGE, 3]."""
    random = np.random.default_rng(0)
    photographs = [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut(), skimage.data.rocket()]
    cut = []
    for number in range(BATCH):
        photograph = photographs[number % len(photographs)]
        top, left = (int(random.integers(0, extent - EDGE)) for extent in photograph.shape[:2])
        cut.append(photograph[top : top + EDGE, left : left + EDGE])
    return np.stack(cut)


def random_weights(name: str) -> dict[str, torch.Tensor]:
    """Weights as torchvision initialises them."""
    from torchvision import models

    torch.manual_seed(0)
    return models.get_model(name, weights=None).state_dict()


if __name__ == "__main__":
    main()
