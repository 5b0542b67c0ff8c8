"""The parts that all benchmarks share: provenance of figures, turns, ratios, tables, JSON and pictures.

A benchmark verifies a contender before it times it (`WrongResult`), lets all contenders take turns in every round of
one run (`take_turns`), and reports medians with their range (`spread`) and ratios to a peer of the same round
(`ratios`). `processes` runs measurements in processes of their own.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spade_index.errors import InputError, SpadeIndexError
from spade_index.images.marks import SOFTWARE
from spade_index.method.origin import PACKAGES, origin

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from matplotlib.axes import Axes

T = TypeVar("T")
Figures = dict[str, Any]  # values that JSON can hold

OURS, PEER, OTHER, LINE = "#1f6f8b", "#b8b8b8", "#c8553d", "#333333"  # colours of the pictures


class WrongResult(SpadeIndexError):
    """A contender's result is wrong; the message gives the deviation."""


def environment(packages: Sequence[str] = PACKAGES) -> Figures:
    """Return the command, the machine, the versions of Python and `packages`, and the commit."""
    program = ["python", sys.argv[0]] if sys.argv[0].endswith(".py") else [Path(sys.argv[0]).name]
    return {
        "command": " ".join([*program, *sys.argv[1:]]),
        **origin(packages),
        "commit": _git("rev-parse", "HEAD")
        + (" and changes" if _git("status", "--porcelain", "--untracked-files=no") else ""),
    }


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:  # git is not installed
        return ""
    return result.stdout.strip()


def require_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise InputError, with the known names, if one of `names` is not among them."""
    for name in names:
        if name not in known:
            raise InputError(f"unknown {kind} {name!r}: choose from {', '.join(known)}")


def check_outputs(json_file: Path | None, picture: Path | None) -> None:
    """Raise InputError, before anything is measured, if a file could not be written or drawn."""
    if picture is not None and find_spec("matplotlib") is None:
        raise InputError(f"{picture}: a picture needs matplotlib: pip install matplotlib")
    for path in filter(None, (json_file, picture)):
        if not path.parent.is_dir():
            raise InputError(f"{path}: no such folder")


def write_json(file: Path | None, figures: Figures) -> None:
    """Write figures to a file, through a temporary one; do nothing without a file."""
    if file is not None:
        temporary = file.with_name(f"{file.name}.tmp")
        temporary.write_text(json.dumps(figures, indent=2) + "\n")
        temporary.replace(file)


def plain(settings: "DataclassInstance") -> Figures:
    """Return the fields of a dataclass as JSON gives them back: paths as text, tuples as lists."""
    fields: Figures = json.loads(json.dumps(asdict(settings), default=str))
    return fields


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """Call a function; return its result and its seconds."""
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def one_line(error: Exception) -> str:
    """Return the kind and the message of an error in at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def take_turns(
    contenders: Mapping[str, Callable[[], T]], rounds: int, say: Callable[[str], None] = lambda line: None
) -> dict[str, list[T]]:
    """Call every contender once in every round, so that other load on the machine slows all of them alike.

    Returns the results of each contender, round by round. `say` is called with a line after every round.
    """
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            results[name].append(run())
        say(f"round {number + 1} of {rounds}")
    return results


def spread(values: Sequence[float], name: str) -> dict[str, float]:
    """Return the median under `name`, and the range under `name`_min and `name`_max."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def ratios(values: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """Return the spread of `values` over the peer's of the same rounds: ratio, ratio_min, ratio_max."""
    return spread([value / of_peer for value, of_peer in zip(values, peer, strict=True)], "ratio")


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each field over rows that have the same fields."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def table(rows: Sequence[Sequence[str]], left: Iterable[int] = (0,)) -> list[str]:
    """Return rows of cells as lines of aligned columns; those numbered in `left` are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ["<" if column in left else ">" for column in range(len(widths))]
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(aligned, widths, strict=True))
    return [form.format(*row).rstrip() for row in rows]


def measured(columns: Sequence[str], rows: Sequence[Figures]) -> str:
    """Return a table of figures; a cell is empty where a row lacks one."""
    return "\n".join(table([columns, *([number(row.get(name), "{:.3g}") for name in columns] for row in rows)]))


def number(value: float | None, form: str = "{:,.0f}") -> str:
    """Return a table's cell: empty for None."""
    return "" if value is None else form.format(value)


@contextmanager
def picture(path: Path, title: str, size: tuple[float, float], rows: int = 1) -> "Iterator[Any]":
    """Yield the axes, one or an array of them, of a picture; write it to a PNG when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, figsize=size, layout="constrained")
    try:
        yield axes
        figure.suptitle(title, fontsize=10)
        figure.savefig(path, dpi=130, metadata={"Software": SOFTWARE})
    finally:
        pyplot.close(figure)


def tidy(axes: "Axes", values: str) -> None:
    """Draw a light grid along the axis of values, `x` or `y`, and no frame."""
    axes.grid(axis="x" if values == "x" else "y", color="#dddddd", linewidth=0.7, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y" if values == "x" else "x", length=0)
