"""Is the false-alarm rate that was asked for kept? Random splits of normal images into a gallery and new images.

python benchmarks/false_alarms.py GALLERY --json benchmarks/results/false_alarms.json
"""

from pathlib import Path

import click
import numpy as np
import torch

from spade_index.benchmarks.harness import Figures, environment, write_json
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.leave_one_out import LeaveOneOut
from spade_index.method.calibration import near_distance
from spade_index.method.detector import Detector, others
from spade_index.method.normal_scores import NormalScores
from spade_index.method.scores import image_scores, map_score

RATES = (0.02, 0.05, 0.1)
SHARE = 0.75  # of the images that are the gallery
SPARE = 4  # times the neighbours of a search are found, so that enough of them are in the gallery


@click.command(help=__doc__)
@click.argument("path", metavar="GALLERY", type=click.Path(path_type=Path, exists=True))
@click.option("--splits", default=200, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(path: Path, splits: int, json_file: Path | None) -> None:
    """Split the images of a gallery; calibrate on one part by the gallery's tuned settings, score the other."""
    with Gallery(path) as gallery:
        detector = Detector(gallery, calibrated=False)
        rows = list(gallery.images())
        wanted, near = SPARE * detector.search.gallery_neighbours, near_distance(gallery)
        nearest = gallery.nearest(gallery.pooled(rows), wanted)
        neighbours = [others(found, row.key, near) for row, found in zip(rows, nearest, strict=True)]
        random = np.random.default_rng(0)
        found = []
        for number in range(splits):
            inside = random.permutation(len(rows)) < SHARE * len(rows)
            found.append(_rates(detector, rows, neighbours, inside))
            click.echo(f"\r{number + 1} of {splits} splits", nl=False, err=True)
    rates = np.array(found)
    figures: Figures = {**environment(), "images": len(rows), "gallery": int(inside.sum()), "splits": splits}
    figures["rates"] = [
        {"asked": asked, "mean": float(of_rate.mean()), "deviation": float(of_rate.std())}
        for asked, of_rate in zip(RATES, rates.T, strict=True)
    ]
    lines = (f"{row['asked']}: {row['mean']:.4f} +- {row['deviation']:.4f}" for row in figures["rates"])
    click.echo("\n" + "\n".join(lines))
    write_json(json_file, figures)


def _rates(
    detector: Detector, rows: list[ImageRow], neighbours: list[list[Neighbour]], inside: np.ndarray
) -> list[float]:
    """Return the share of images outside that are called anomalous, for each of RATES."""
    keys = {row.key for row, is_inside in zip(rows, inside, strict=True) if is_inside}
    most = detector.search.gallery_neighbours
    candidates = [[n for n in of_image if n.key in keys][:most] for of_image in neighbours]
    means = []
    for row, of_image in zip(rows, candidates, strict=True):
        pyramid = [torch.from_numpy(level).float() for level in detector.gallery.maps([row.key])]
        levels = detector.comparison.prepare(pyramid)
        (pixels,) = detector.search_pixels(levels, [of_image])
        means.append(pixels.distances.mean(2)[0].numpy())
    own = dict(zip((row.key for row in rows), means, strict=True))
    share = detector.search.subtract_neighbours
    left = [mean - share * np.mean([own[n.key] for n in of], 0) for mean, of in zip(means, candidates, strict=True)]
    maps = detector.score_maps(torch.from_numpy(np.stack(left)))
    found = [
        image_scores(detector.pooled_score(of_image), map_score(score_map, detector.search.top_share))[detector.kind]
        for of_image, score_map in zip(candidates, maps, strict=True)
    ]
    scores, order = np.array(found), np.flatnonzero(inside)
    calibrated = NormalScores(LeaveOneOut(order, {detector.kind: scores[order]}, np.stack(means)[order]))
    thresholds = [calibrated.threshold(detector.kind, rate) for rate in RATES]
    return [float((scores[~inside] >= threshold).mean()) for threshold in thresholds if threshold is not None]


if __name__ == "__main__":
    main()
