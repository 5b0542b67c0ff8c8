"""The figures of the ingest benchmark: rates beside the backbone's alone, as a table and as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .harness import OURS, PEER, Figures, picture, spread, table, tidy

COLUMNS = ("", "images", "images/s", "backbone/s", "ratio", "median", "min", "max", "ms/image")


def rates(images: int, seconds: float, alone_rate: float) -> dict[str, float]:
    """Return the images per second of a slice beside those of the backbone alone."""
    rate = images / seconds
    return {"images": images, "seconds": seconds, "rate": rate, "alone_rate": alone_rate, "ratio": rate / alone_rate}


def summary(slices: Sequence[dict[str, float]]) -> Figures:
    """Return rates and their ratio over all slices, and the median and range of the slices' ratios."""
    images, seconds = (sum(part[name] for part in slices) for name in ("images", "seconds"))
    alone = images / sum(part["images"] / part["alone_rate"] for part in slices)
    ratios = spread([part["ratio"] for part in slices], "ratio")
    return {
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "backbone_images_per_second": alone,
        **ratios,
        "ratio_median": ratios["ratio"],
        "ratio": images / seconds / alone,
        "slices": slices,
    }


def report(results: Figures) -> str:
    """Return rates and their shares of the backbone's, memory, and the cost of adding again and adding more."""
    ingest, dropped, settings = results["ingest"], results["without_writing"], results["settings"]
    alone = ingest["backbone_images_per_second"]
    checked, counts, again, more = (results[name] for name in ("checked", "report", "again", "more"))
    lines = [
        f"{settings['backbone']} at {settings['input_size']}x{settings['input_size']} on {results['device']}, "
        f"{results['threads']} threads, batches of {settings['batch_size']}, decoding in {results['decoding']}; "
        f"{results['map_bytes']:,} bytes of maps per image",
        *table(
            [
                COLUMNS,
                ["backbone alone", "", "", f"{alone:,.0f}", "1", "", "", "", f"{1e3 / alone:.3f}"],
                _row("decoding + backbone", dropped, alone),
                _row("decoding + backbone + writing", ingest, alone),
            ]
        ),
        f"ratio: of the totals, and the median and range of {len(ingest['slices'])} slices",
        f"memory of all processes: at most {results['memory']['peak_mb']:,.0f} MB",
        f"{checked['images']:,} images in the gallery, {counts['copies']:,} skipped as copies, {counts['failed']:,} "
        f"could not be decoded; every file verified; features of {checked['images_compared']} computed again, "
        f"descriptors off by at most {checked['descriptor_error']:.1e}",
        f"the same images again: {again['seconds']:.2f} s, {again['images_per_second']:,.0f} images/s, nothing added",
        f"{more['images']} more images: {more['large_seconds']:.2f} s into this gallery, "
        f"{more['empty_seconds']:.2f} s into an empty one",
    ]
    return "\n".join(lines)


def _row(title: str, rates: Figures, alone: float) -> list[str]:
    counts = [f"{rates[name]:,.0f}" for name in ("images", "images_per_second", "backbone_images_per_second")]
    ratios = [f"{rates[name]:.3f}" for name in ("ratio", "ratio_median", "ratio_min", "ratio_max")]
    return [title, *counts, *ratios, f"{1e3 / alone / rates['ratio']:.3f}"]


def draw(results: Figures, path: Path) -> None:
    """Draw rates slice by slice."""
    settings, device = results["settings"], results["device"]
    title = (
        f"Ingest of {results['ingest']['images']:,} images, {settings['backbone']} at {settings['input_size']}x"
        f"{settings['input_size']}, {device if device != 'cpu' else results['machine']}"
    )
    slices = results["ingest"]["slices"]
    ends = np.cumsum([0, *(part["images"] for part in slices)])
    with picture(path, title, (7.5, 4)) as axes:
        for name, colour, label in (("alone_rate", PEER, "backbone alone"), ("rate", OURS, "ingest")):
            values = [part[name] for part in slices]
            axes.stairs(values, ends, baseline=None, color=colour, linewidth=2, label=label)
        axes.set(xlabel="images", ylabel="images per second", ylim=(0, 1.1 * axes.get_ylim()[1]))
        axes.legend(fontsize=8, loc="lower left", frameon=False)
        tidy(axes, "y")
