"""Write the answers of `query` to files: CSV, JSON lines and COCO."""

import csv
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import click

from spade_index.errors import InputError

from .strict import strict_json
from .values import PATH

STDOUT = Path("-")
SCORES = ("pooled", "map", "both")


@dataclass(frozen=True)
class AnswerFileOptions:
    """Files of answers; `-` is standard output, in place of the lines of text."""

    csv: Annotated[
        Path | None, click.option("--csv", type=PATH, help="Write a table, one row per image, to this file.")
    ]
    jsonl: Annotated[
        Path | None, click.option("--jsonl", type=PATH, help="Write JSON objects, one line per image, to this file.")
    ]
    coco: Annotated[Path | None, click.option("--coco", type=PATH, help="Write regions in COCO's format to this file.")]

    @property
    def files(self) -> tuple[Path | None, ...]:
        """The files to be written. Raises InputError if two are standard output."""
        given = (self.csv, self.jsonl, self.coco)
        if given.count(STDOUT) > 1:
            raise InputError("only one of --csv, --jsonl and --coco can be `-`")
        return tuple(None if path == STDOUT else path for path in given)

    @property
    def to_stdout(self) -> bool:
        """Whether one of them takes the place of the lines of text."""
        return STDOUT in (self.csv, self.jsonl, self.coco)


class AnswerFiles:
    """Files of answers, which are written as the answers come. Use as a context manager."""

    def __init__(self, options: AnswerFileOptions) -> None:
        self._options = options
        self._stack = ExitStack()
        self._found: list[tuple[str, Any, Sequence[Any]]] = []  # regions of images that have a threshold

    def __enter__(self) -> "AnswerFiles":
        self._csv = self._opened(self._options.csv)
        self._jsonl = self._opened(self._options.jsonl)
        self._rows = None if self._csv is None else csv.writer(self._csv, lineterminator="\n")
        if self._rows is not None:
            self._rows.writerow(COLUMNS)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._stack.close()
        if self._options.coco is not None and kind is None:  # else it would look as if it were complete
            self._write_coco(self._options.coco)

    def add(self, answer: dict[str, Any], geometry: Any, regions: Sequence[Any] | None) -> None:
        """Write an answer; its regions lie in the pixels of an image with this geometry."""
        if self._rows is not None:
            from spade_index.views.text import cell_of

            with _naming(self._options.csv):
                self._rows.writerow(map(cell_of, row_of(answer)))
        if self._jsonl is not None:
            with _naming(self._options.jsonl):
                self._jsonl.write(strict_json(answer) + "\n")
        if self._options.coco is not None and regions is not None:
            self._found.append((answer["image"], geometry, regions))

    def _write_coco(self, path: Path) -> None:
        from spade_index.views.files import write_whole
        from spade_index.views.regions import coco

        text = strict_json(coco(self._found))
        if path == STDOUT:
            sys.stdout.write(text)
        else:
            write_whole(path, text.encode("utf-8", "backslashreplace"))

    def _opened(self, path: Path | None) -> TextIO | None:
        if path is None or path == STDOUT:
            return None if path is None else sys.stdout
        self._stack.enter_context(_naming(path))  # what is left is written when the file is closed
        return self._stack.enter_context(open(path, "w", encoding="utf-8", errors="backslashreplace", newline=""))


def _naming(path: Path | None) -> AbstractContextManager[None]:
    from spade_index.views.files import naming

    return nullcontext() if path is None or path == STDOUT else naming(path)


COLUMNS = (
    *("image", "path", "score", "threshold", "p_value", "anomalous", *SCORES, "nearest", "nearest_distance"),
    *("regions", "worst_x", "worst_y", "snapshot", "score_map", "heatmap", "mask"),
    *("known_defect", "known_distance", "known_seen"),
)


NO_KNOWN = "none of the known defects"


def row_of(answer: dict[str, Any]) -> list[Any]:
    """Return the values of COLUMNS; what is not known is empty."""
    nearest = answer["neighbours"][0]
    known = answer["regions"][0]["known_defect"] if answer["regions"] else None  # of the worst region
    x, y = (None, None) if answer["evidence"] is None else answer["evidence"]["pixel"]
    values = {
        **answer,
        **{kind: answer["scores"].get(kind) for kind in SCORES},
        "anomalous": None if answer["anomalous"] is None else str(answer["anomalous"]).lower(),
        "nearest": nearest["id"],
        "nearest_distance": nearest["distance"],
        "regions": None if answer["regions"] is None else len(answer["regions"]),
        "worst_x": x,
        "worst_y": y,
        "known_defect": None if known is None else known["kind"] if known["alike"] else NO_KNOWN,
        "known_distance": None if known is None else known["distance"],
        "known_seen": None if known is None else known["seen"] if known["alike"] else 0,
    }
    return [values[name] for name in COLUMNS]
