"""Layouts in which a table says what is normal: a folder with a CSV file, and VisA, which has one."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TextIO

from spade_index.errors import InputError
from spade_index.images.files import as_path, as_text
from spade_index.images.find import ImageFile
from spade_index.images.lists import decoded
from spade_index.images.masks import marks_anything
from spade_index.images.passed_over import PassedOver

from ..labelled import GOOD, UNLABELLED, Dataset, LabelledImage
from .names import below, listed, listed_image, spelled_in

COLUMNS = {  # names that a column may have
    "image": ("image", "image_path", "path", "file", "filename"),
    "label": ("label", "label_index", "kind", "anomaly_class", "class"),
    "mask": ("mask", "mask_path"),
    "split": ("split", "set"),
    "object": ("object", "category"),
}
GOOD_LABELS = frozenset({"0", "0.0", "good", "ok", "normal", "false"})
DEFECT_LABELS = frozenset({"1", "1.0", "true"})  # any other names the kind of defect
NO_LABELS = frozenset({"-1", "-1.0", "unknown", "unlabelled"})
NOTHING = frozenset({"nan", "null", "n/a"})  # as programs write an empty cell
DEFECT = "defect"
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
SEPARATORS = ",;\t"
SEPARATOR = re.compile(f'"?sep=([{SEPARATORS}])"?', re.IGNORECASE)
VISA_SPLIT = Path("split_csv", "1cls.csv")


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    where: str  # file and line
    image: str
    label: str
    mask: str
    split: str
    object: str


@dataclass(frozen=True)
class Claim:
    """What a row says of its image."""

    kind: str
    mask: Path | None
    split: str
    where: str

    def repeats(self, first: "Claim", image: str) -> bool:
        """Return whether this says again what the first row of the image says. Raises InputError if they disagree."""
        if self is first or UNLABELLED in (self.kind, first.kind):
            return False
        if (self.kind, self.split) != (first.kind, first.split):
            raise InputError(f"{self.where}: {image} is in {first.where} with another label or split")
        if self.kind != GOOD and self.mask != first.mask:
            raise InputError(
                f"{self.where}: {image} is in {first.where} with another mask: give it one row, with one mask or a "
                "folder of masks"
            )
        return True


def table(path: Path, passed_over: PassedOver, only: str | None = None) -> Dataset:
    """Read a CSV file, or the only one of a folder: image, label, mask and split.

    Paths are relative to the folder of the file, or to the one above it.
    """
    file = table_of(path)
    rows = [row for row in read_rows(file) if only in (None, row.object)]
    name = only or (path if path.is_dir() else path.with_suffix("")).resolve().name
    # The table of VisA lies in a folder beside those that its paths begin with.
    bases = [base for base in (file.parent, file.parent.parent) if rows and spelled_in(base, rows[0].image).exists()]
    return _dataset(name, "csv", path if only is None else file, rows, file, (*bases, file.parent)[0], passed_over)


def objects(path: Path) -> list[str]:
    """Return the objects that a table names; [] for a table without that column."""
    found = list(dict.fromkeys(row.object for row in read_rows(table_of(path))))
    return found if found != [""] else []


def visa(root: Path, passed_over: PassedOver) -> Dataset:
    """Read a category of VisA: Data/Images/Normal and Anomaly, split by split_csv/1cls.csv beside it."""
    places = [root.parent / VISA_SPLIT, root / VISA_SPLIT]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(
            f"{root}: no {VISA_SPLIT} beside this category: VisA is split into train and test by that file"
        )
    rows = [row for row in read_rows(file) if row.object == root.resolve().name]
    return _dataset(root.resolve().name, "visa", root, rows, file, file.parent.parent, passed_over)


def is_visa(root: Path) -> bool:
    """Return whether a folder has the images of a category of VisA."""
    return below(root, "Data", "Images", "Normal").is_dir()


def is_table(path: Path) -> bool:
    """Return whether a path is a CSV file that names images, or a folder with one such file."""
    try:
        columns = _header(table_of(path)).keys()
        return "image" in columns and bool({"label", "mask"} & columns)
    except InputError:
        return False


def table_of(path: Path) -> Path:
    """Return the CSV file that a path is, or that lies in it. Raises InputError unless there is one."""
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise InputError(f"{path}: not a CSV file")
        return path
    found = sorted(file for file in path.glob("*") if file.suffix.lower() == ".csv" and not file.name.startswith("."))
    if len(found) != 1:
        there = ", ".join(file.name for file in found) or "none"
        raise InputError(f"{path}: one CSV file is needed, there is {there}")
    return found[0]


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a CSV file. Raises InputError if it cannot be read or has no column of images."""
    columns = _header(file)
    if "image" not in columns or not {"label", "mask"} & columns.keys():
        raise InputError(f"{file}: its first line must name the columns image, label, mask and split (image and label)")
    rows, most = [], 0
    with _opened(file) as lines:
        for number, cells in _cells(file, lines):
            where = f"{file} line {number}"
            if not most:
                most, names = len(cells), [_column(cell) for cell in cells]
                twice = next((name for at in columns.values() if names.count(name := names[at]) > 1), None)
                if twice is not None:
                    raise InputError(f"{where}: has the column {twice} more than once")
                continue
            if any(cells[most:]):
                raise InputError(f"{where}: has more cells than the first line: quote names with the separator in them")
            row = {name: _said(name, cells[at]) if at < len(cells) else "" for name, at in columns.items()}
            if columns.get("split", 0) >= len(cells):  # it would be tested, also where it is of train
                raise InputError(f"{where}: ends before its split, though the table has that column")
            rows.append(Row(where, **{name: row.get(name, "") for name in COLUMNS}))
    return rows


def _dataset(
    name: str, layout: str, path: Path, rows: list[Row], file: Path, base: Path, passed_over: PassedOver
) -> Dataset:
    test: list[LabelledImage] = []
    normal: list[ImageFile] = []
    unlabelled: list[LabelledImage] = []
    left_out: Counter[str] = Counter()
    known: dict[str, Claim] = {}  # by the path of the image
    for row in rows:
        split = SPLITS.get(row.split.casefold()) if row.split else "test"
        if split is None:
            raise InputError(f"{row.where}: the split {row.split!r} is none of {', '.join(SPLITS)}")
        mask = listed(base, row.mask, row.where) if row.mask else None
        if passed_over.excludes(row.image):
            continue
        kind = _kind(row, mask)
        image = LabelledImage(listed_image(base, row.image, row.where), kind, mask)
        claim = Claim(kind, mask, split, row.where)
        if claim.repeats(known.setdefault(os.path.realpath(as_path(image.file.path)), claim), row.image):
            left_out["rows that repeat another"] += 1
            continue
        if split == "train" and kind == GOOD:
            normal.append(image.file)
        elif split == "test":
            (unlabelled if kind == UNLABELLED else test).append(image)
        else:
            left_out["images of validation" if split == "validation" else "training images not labelled as good"] += 1
    unused = tuple(f"{count} {what}" for what, count in sorted(left_out.items()))
    found = Dataset(name, layout, path, test, normal, unlabelled, f"{file} (split train, label good)", unused)
    return found.require_test("rows of test with the label good", "rows of test with another label")


def _kind(row: Row, mask: Path | None) -> str:
    label = row.label.casefold()
    if not label and mask is not None:
        return DEFECT if marks_anything(mask) else GOOD
    if label == "none":
        raise InputError(f"{row.where}: the label none may mean no defect, or nothing known: write good, or unknown")
    if label in GOOD_LABELS:
        return GOOD
    if label in NO_LABELS or not label:
        return UNLABELLED
    return DEFECT if label in DEFECT_LABELS else row.label


def _said(column: str, cell: str) -> str:
    """Return what a cell says: nothing where a program wrote that it is empty, and paths with our slashes.

    What is no path is shown to people, so bytes that are not UTF-8 are escaped.
    """
    if column == "image":
        return cell.replace("\\", "/")
    if cell.casefold() in NOTHING:
        return ""
    return cell.replace("\\", "/") if column == "mask" else as_text(as_path(cell))


def _header(file: Path) -> dict[str, int]:
    """Return the columns of a CSV file by our names for them."""
    with _opened(file) as lines:
        _, cells = next(_cells(file, lines), (1, []))
    names = [_column(cell) for cell in cells]
    columns = {}
    for ours, theirs in COLUMNS.items():
        found = next((name for name in theirs if name in names), None)
        if found is not None:
            columns[ours] = names.index(found)
    return columns


def _column(cell: str) -> str:
    return cell.casefold().replace(" ", "_")


def _opened(file: Path) -> TextIO:
    try:
        return StringIO(decoded(file.read_bytes()), newline="")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a CSV file ({error})") from error


def _cells(file: Path, lines: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that has any.

    The separator is the one that the first line has most of, or the one that it states alone, as Excel does: `sep=;`.
    """
    number, first = next(((number, line) for number, line in enumerate(lines, 1) if line.strip()), (1, ""))
    stated = SEPARATOR.fullmatch(first.strip("\r\n"))
    separator = stated[1] if stated else max(SEPARATORS, key=first.count)
    if stated is None:
        lines.seek(0)
        number = 0
    read = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        for cells in read:
            if any(plain := [cell.strip() for cell in cells]):
                yield number + read.line_num, plain
    except csv.Error as error:
        raise InputError(f"{file}: not a CSV file ({error})") from error
