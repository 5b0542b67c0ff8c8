"""Draw how adding images and searching scale with the workers of a cluster, of the figures that two benchmarks wrote.

python benchmarks/cluster_report.py benchmarks/results/cluster_ingest.json benchmarks/results/cluster_search.json \\
    docs/cluster.png
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from spade_index.benchmarks.harness import LINE, OTHER, OURS, PEER, Figures, picture, tidy

AIM = 0.85  # of linear


def draw(ingest: Figures, search: Figures, path: Path) -> None:
    """Draw each rate, as times that of one worker."""
    lines = [
        (ingest["scaling"], OURS, "o", "adding, a backbone that waits"),
        (search["waiting"], OTHER, "s", "searching, workers that wait"),
        (ingest.get("real", ()), OURS, "^", "adding, a real backbone, two cores"),
        (search["real"], OTHER, "v", "searching for real, two cores"),
    ]
    most = max(row["workers"] for rows, *_ in lines for row in rows)
    with picture(path, f"What workers of a cluster gain ({ingest['machine']})", (6.5, 4)) as axes:
        axes.plot([1, most], [1, most], color=PEER, linewidth=1, label="linear")
        axes.plot([1, most], [AIM, AIM * most], color=PEER, linewidth=1, linestyle=":", label=f"{AIM:.0%} of it")
        for rows, colour, marker, label in lines:
            workers, times = _times(rows)
            axes.plot(workers, times, color=colour, marker=marker, linewidth=1.5, markersize=5, label=label)
        axes.set(xlabel="workers", ylabel="times the rate of one", xlim=(0, None), ylim=(0, None))
        axes.legend(fontsize=8, frameon=False, labelcolor=LINE)
        tidy(axes, "y")


def _times(rows: Sequence[Figures]) -> tuple[list[int], list[float]]:
    """Return the numbers of workers, and their rates in proportion to that of one."""
    measured = [row for row in rows if "share_of_linear" in row]
    return [row["workers"] for row in measured], [row["workers"] * row["share_of_linear"] for row in measured]


@click.command(help=__doc__)
@click.argument("ingest", type=click.Path(exists=True, path_type=Path))
@click.argument("search", type=click.Path(exists=True, path_type=Path))
@click.argument("png", type=click.Path(path_type=Path))
def main(ingest: Path, search: Path, png: Path) -> None:
    """Read the figures of both benchmarks, and draw them."""
    draw(json.loads(ingest.read_text()), json.loads(search.read_text()), png)


if __name__ == "__main__":
    main()
