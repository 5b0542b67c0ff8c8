"""Find the test sets of a dataset: which layout it has, and which categories."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spade_index.errors import InputError
from spade_index.images.passed_over import PassedOver
from spade_index.settings import LAYOUTS

from ..labelled import Dataset
from . import folders, pairs, real_iad, tables


@dataclass(frozen=True)
class Layout:
    """A way to lay out a dataset."""

    looks_like: str
    there: Callable[[Path], bool]  # whether a path is a category in this layout
    read: Callable[[Path, PassedOver], Dataset]


KNOWN = {
    "visa": Layout("Data/Images/Normal, and ../split_csv/1cls.csv", tables.is_visa, tables.visa),
    "csv": Layout("a CSV file with the columns image,label,mask,split", tables.is_table, tables.table),
    "real-iad": Layout("realiad_jsons/CATEGORY.json", real_iad.is_real_iad, real_iad.real_iad),
    "mvtec-ad-2": Layout("train/good, test_public/good and test_public/bad", folders.is_mvtec_ad_2, folders.mvtec_ad_2),
    "ksdd2": Layout("train/* and test/* with *_GT.png", pairs.is_kolektor, pairs.kolektor),
    "mvtec-loco": Layout("train/good, test/KIND, ground_truth/KIND/IMAGE/*", folders.is_loco, folders.loco),
    "btad": Layout("train/ok, test/ok, test/ko, ground_truth/ko", folders.is_btad, folders.btad),
    "mvtec-ad": Layout("train/good, test/good, test/KIND, ground_truth/KIND", folders.is_mvtec_ad, folders.mvtec_ad),
    "mpdd": Layout("as mvtec-ad", folders.is_mvtec_ad, folders.mpdd),
}  # in this order, the first that a path looks like is taken
assert set(KNOWN) == set(LAYOUTS)


LISTS = (tables.VISA_SPLIT.parent.name,)  # folders beside categories that belong to a layout


@dataclass(frozen=True)
class Found:
    """What was found at a path: one category, or a root of categories."""

    datasets: list[Dataset]
    is_root: bool
    passed_over: list[str]  # entries of a root that are no category


def find_datasets(path: str | Path, layout: str | None = None, passed_over: PassedOver | None = None) -> Found:
    """Return the category at a path, or the categories below it.

    Args:
        path: a folder, or a file that lists images.
        layout: a key of KNOWN; None: whichever the path looks like.
        passed_over: says what is left out of folders, and counts it.

    Raises:
        InputError: the path looks like no layout, or like one that is not complete.
    """
    root, left = Path(path), PassedOver() if passed_over is None else passed_over
    if not root.exists():
        raise InputError(f"{root}: no such file or folder")
    names = [layout] if layout is not None else list(KNOWN)
    for name in names:
        if name in ("csv", "real-iad"):
            listed = _listed(root, name, left)
            if listed:
                return Found(listed, is_root=True, passed_over=[])
        if KNOWN[name].there(root):
            return Found([KNOWN[name].read(root, left)], is_root=False, passed_over=[])
    for name in names:
        inside = sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
        categories = [entry for entry in inside if KNOWN[name].there(entry)]
        if categories:
            others = [entry.name for entry in inside if entry not in categories and entry.name not in LISTS]
            return Found([KNOWN[name].read(entry, left) for entry in categories], is_root=True, passed_over=others)
    looked_for = "; ".join(f"{name}: {KNOWN[name].looks_like}" for name in names)
    raise InputError(
        f"{root}: no dataset in a known layout, here or one folder below, so no images; looked for {looked_for}"
    )


def _listed(root: Path, name: str, passed_over: PassedOver) -> list[Dataset]:
    """Return the categories that a list at a path names; [] for none, or if it names none."""
    if name == "csv":
        return list(tables.tables(root, passed_over).values()) if tables.is_table(root) else []
    if root.is_dir() and real_iad.list_of(root) is None:
        return [real_iad.real_iad(file, passed_over) for file in real_iad.categories(root)]
    return []
