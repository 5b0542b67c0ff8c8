"""The ingest benchmark's figures as a table, and as a picture."""

from pathlib import Path
from typing import Any

from spade_index.benchmarks.interleaved import Slice

Entry = dict[str, Any]

COLUMNS = ("", "images", "images/s", "backbone/s", "ratio", "median", "min", "max", "ms/image")
ALIGNED = "{:31}{:>8}{:>10}{:>12}{:>8}{:>8}{:>8}{:>8}{:>10}"
BACKBONE, INGEST, MEMORY, QUIET = "#b8b8b8", "#1f6f8b", "#c8553d", "#dddddd"


def line(what: str, part: Slice) -> str:
    """A slice, while the rest is measured."""
    return f"{what}: {part.rate:,.0f} images/s, backbone alone {part.alone_rate:,.0f}, ratio {part.ratio:.3f}"


def table(results: Entry) -> str:
    """Rates and their shares of the backbone's, memory, and what adding again and adding more costs."""
    ingest, dropped, settings = results["ingest"], results["without_writing"], results["settings"]
    alone_ms = 1e3 / ingest["backbone_images_per_second"]
    lines = [
        f"{settings['backbone']} at {settings['input_size']}x{settings['input_size']} on {results['device']}, "
        f"{results['threads']} threads, batches of {settings['batch_size']}, decoding in {results['decoding']}; "
        f"{results['map_bytes']:,} bytes of maps per image",
        ALIGNED.format(*COLUMNS),
        ALIGNED.format(
            "backbone alone",
            "",
            "",
            *[f"{ingest['backbone_images_per_second']:,.0f}"],
            "1",
            *[""] * 3,
            f"{alone_ms:.3f}",
        ),
        _row("decoding + backbone", dropped, alone_ms),
        _row("decoding + backbone + writing", ingest, alone_ms),
        f"ratio: of the totals, and the median and range of {len(ingest['slices'])} and {len(dropped['slices'])} slices"
        " against the backbone alone just before and after; ms: the backbone alone's / ratio",
        f"of the ingest's {ingest['seconds']:.1f} s, {ingest['settling_seconds']:.1f} s are from waiting until queues "
        f"were empty before the backbone was timed alone; without them its ratio is "
        f"{ingest['ratio_without_settling']:.3f}",
        *_memory_lines(results["memory"]),
        _checked_line(results),
    ]
    again, more = results["again"], results["more"]
    lines += [
        f"the same images again: {again['seconds']:.2f} s, {again['images_per_second']:,.0f} images/s, nothing added",
        f"{more['images']} more images: {more['large_seconds']:.2f} s into this gallery, "
        f"{more['empty_seconds']:.2f} s into an empty one",
    ]
    return "\n".join(text.rstrip() for text in lines)


def _row(title: str, of: Entry, alone_ms: float) -> str:
    return ALIGNED.format(
        title,
        f"{of['images']:,}",
        f"{of['images_per_second']:,.0f}",
        f"{of['backbone_images_per_second']:,.0f}",
        *(f"{of[name]:.3f}" for name in ("ratio", "ratio_median", "ratio_min", "ratio_max")),
        f"{alone_ms / of['ratio']:.3f}",
    )


def _memory_lines(memory: Entry) -> list[str]:
    lines = [f"memory of all processes: at most {memory['peak_mb']:,.0f} MB"]
    for of in memory["rounds"]:
        if of["growth"] is None:
            lines.append("too short to say whether memory grows")
        else:
            first, last, growth = of["first_tenth_mb"], of["last_tenth_mb"], of["growth"]
            lines.append(f"first tenth after a commit {first:,.0f} MB, last tenth {last:,.0f} MB: {growth:+.1%}")
    return lines


def _checked_line(results: Entry) -> str:
    checked, report = results["checked"], results["report"]
    return (
        f"{checked['images']:,} images in the gallery, {report['copies']:,} skipped as copies, {report['failed']:,} "
        f"could not be decoded; every file verified; features of {checked['images_compared']} computed again, "
        f"descriptors off by at most {checked['descriptor_error']:.1e}"
    )


def draw(results: Entry, path: Path) -> None:
    """Rates slice by slice, and memory below them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (rates, memory) = pyplot.subplots(
        2, 1, figsize=(7.5, 5.5), layout="constrained", sharex=True, height_ratios=(3, 2)
    )
    _draw_rates(rates, results["ingest"])
    _draw_memory(memory, results)
    settings = results["settings"]
    figure.suptitle(
        f"Ingest of {results['ingest']['images']:,} images, {settings['backbone']} at {settings['input_size']}x"
        f"{settings['input_size']}, {results['device'] if results['device'] != 'cpu' else results['machine']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_rates(axes: Any, ingest: Entry) -> None:
    ends = [0]
    for part in ingest["slices"]:
        ends.append(ends[-1] + part["images"])
    for name, colour, label in (("alone_rate", BACKBONE, "backbone alone"), ("rate", INGEST, "ingest")):
        rates = [part[name] for part in ingest["slices"]]
        axes.stairs(rates, ends, baseline=None, color=colour, linewidth=2, label=label)
    axes.set(ylabel="images per second", ylim=(0, None))
    axes.set_title(
        f"{ingest['ratio']:.0%} of the backbone alone, measured in turn (slices: median {ingest['ratio_median']:.0%}, "
        f"{ingest['ratio_min']:.0%} to {ingest['ratio_max']:.0%})",
        fontsize=9,
    )
    axes.legend(fontsize=8, loc="lower left", frameon=False)
    _plain(axes)


def _draw_memory(axes: Any, results: Entry) -> None:
    before = 0
    for of in results["memory"]["rounds"]:
        samples = of["samples"]
        places = [before + sample["images"] for sample in samples]
        axes.plot(places, [sample["megabytes"] for sample in samples], color=MEMORY, linewidth=1.5)
        before = places[-1]
    growth = [f"{of:+.1%}" for of in results["memory"]["growth"] if of is not None]
    text = f": {', '.join(growth)} from the first tenth to the last" if growth else ""
    axes.set_title(
        f"Resident memory of all processes, at most {results['memory']['peak_mb']:,.0f} MB{text}", fontsize=9
    )
    axes.set(xlabel="images", ylabel="MB", ylim=(0, 1.15 * results["memory"]["peak_mb"]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(axis="y", color=QUIET, linewidth=0.7, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
