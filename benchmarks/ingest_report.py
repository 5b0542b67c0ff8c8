"""The figures of the ingest benchmark as a table and as a picture."""

from pathlib import Path
from typing import Any

from spade_index.benchmarks.harness import OTHER, OURS, PEER, Figures, picture, table, tidy

COLUMNS = ("", "images", "images/s", "backbone/s", "ratio", "median", "min", "max", "ms/image")


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
        f"ratio: of the totals, and the median and range of {len(ingest['slices'])} and {len(dropped['slices'])} slices"
        " against the backbone alone just before and after; ms: the backbone alone's / ratio",
        f"of the ingest's {ingest['seconds']:.1f} s, {ingest['settling_seconds']:.1f} s are waits for empty queues "
        f"before the backbone was timed alone; without them its ratio is {ingest['ratio_without_settling']:.3f}",
        f"memory of all processes: at most {results['memory']['peak_mb']:,.0f} MB",
        *map(_growth, results["memory"]["rounds"]),
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


def _growth(memory: Figures) -> str:
    if memory["growth"] is None:
        return "too short to say whether memory grows"
    first, last, growth = memory["first_tenth_mb"], memory["last_tenth_mb"], memory["growth"]
    return f"first tenth after a commit {first:,.0f} MB, last tenth {last:,.0f} MB: {growth:+.1%}"


def draw(results: Figures, path: Path) -> None:
    """Draw rates slice by slice, and memory below them."""
    settings, device = results["settings"], results["device"]
    title = (
        f"Ingest of {results['ingest']['images']:,} images, {settings['backbone']} at {settings['input_size']}x"
        f"{settings['input_size']}, {device if device != 'cpu' else results['machine']}"
    )
    with picture(path, title, (7.5, 5.5), rows=2) as (rates, memory):
        _draw_rates(rates, results["ingest"])
        _draw_memory(memory, results["memory"])


def _draw_rates(axes: Any, ingest: Figures) -> None:
    ends = [0]
    for part in ingest["slices"]:
        ends.append(ends[-1] + part["images"])
    for name, colour, label in (("alone_rate", PEER, "backbone alone"), ("rate", OURS, "ingest")):
        rates = [part[name] for part in ingest["slices"]]
        axes.stairs(rates, ends, baseline=None, color=colour, linewidth=2, label=label)
    axes.set(ylabel="images per second", ylim=(0, None))
    axes.set_title(
        f"{ingest['ratio']:.0%} of the backbone alone, measured in turn (slices: median {ingest['ratio_median']:.0%}, "
        f"{ingest['ratio_min']:.0%} to {ingest['ratio_max']:.0%})",
        fontsize=9,
    )
    axes.legend(fontsize=8, loc="lower left", frameon=False)
    tidy(axes, "y")


def _draw_memory(axes: Any, memory: Figures) -> None:
    before = 0
    for of in memory["rounds"]:
        places = [before + sample["images"] for sample in of["samples"]]
        axes.plot(places, [sample["megabytes"] for sample in of["samples"]], color=OTHER, linewidth=1.5)
        before = places[-1]
    growth = ", ".join(f"{of:+.1%}" for of in memory["growth"] if of is not None)
    text = f": {growth} from the first tenth to the last" if growth else ""
    axes.set_title(f"Resident memory of all processes, at most {memory['peak_mb']:,.0f} MB{text}", fontsize=9)
    axes.set(xlabel="images", ylabel="MB", ylim=(0, 1.15 * memory["peak_mb"]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    tidy(axes, "y")
