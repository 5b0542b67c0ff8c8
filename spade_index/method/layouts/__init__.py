"""Find the test sets of a dataset: which layout it has, and which categories."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from spade_index.errors import InputError
from spade_index.images.find import is_archive
from spade_index.images.passed_over import PassedOver
from spade_index.paths import path_of
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


LISTED: dict[str, Callable[[Path], object]] = {
    ".csv": tables.read_rows,
    ".json": real_iad.read_list,
}  # raise InputError
LISTS = (tables.VISA_SPLIT.parent.name,)  # folders beside categories that belong to a layout


@dataclass(frozen=True)
class Found:
    """What was found at a path: one category, or a root of categories."""

    datasets: list[Dataset]
    is_root: bool
    passed_over: list[str]  # entries of a root that are no category
    broken: dict[str, str] = field(default_factory=dict)  # categories of a root that cannot be read, and why


def find_datasets(path: str | Path, layout: str | None = None, passed_over: PassedOver | None = None) -> Found:
    """Return the category at a path, or the categories below it.

    Args:
        path: a folder, or a file that lists images.
        layout: a key of KNOWN; None: whichever the path looks like.
        passed_over: says what is left out of folders, and counts it.

    Raises:
        OSError: folders cannot be read, so that no layout is found.
        InputError: the path looks like no layout, or like one that is not complete; of a root, no category is.
    """
    root, left = path_of(path, "the dataset"), PassedOver() if passed_over is None else passed_over
    if not root.exists():
        raise InputError(f"{root}: no such file or folder")
    names = [layout] if layout is not None else list(KNOWN)
    unreadable: list[OSError] = []

    def there(name: str, place: Path) -> bool:
        try:
            return KNOWN[name].there(place)
        except OSError as error:
            unreadable.append(error)
            return False

    for name in names:
        if name in ("csv", "real-iad"):
            listed = _listed(root, name, left)
            if listed is not None:
                return listed
        if there(name, root):
            return Found([KNOWN[name].read(root, left)], is_root=False, passed_over=[])
    inside = sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    for name in names:
        categories = [entry for entry in inside if there(name, entry)]
        if categories:
            others = [entry.name for entry in inside if entry not in categories and entry.name not in LISTS]
            return _root({entry.name: partial(KNOWN[name].read, entry, left) for entry in categories}, others)
    if unreadable:
        raise unreadable[0]
    if root.is_file():
        raise _no_list(root)
    looked_for = "; ".join(f"{name}: {KNOWN[name].looks_like}" for name in names)
    raise InputError(
        f"{root}: no dataset in a known layout, here or one folder below, so no images; looked for {looked_for}"
    )


def _no_list(file: Path) -> InputError:
    """Return why a file lists no dataset."""
    if is_archive(file.name):
        return InputError(f"{file}: is an archive: unpack it, and name its folder")
    kind = file.suffix.lower()
    if kind not in LISTED:
        return InputError(f"{file}: is a file: a dataset is a folder, or a list of images, {' or '.join(LISTED)}")
    try:
        LISTED[kind](file)
    except InputError as error:
        return error
    return InputError(f"{file}: lists no dataset in this layout")


def _listed(root: Path, name: str, passed_over: PassedOver) -> Found | None:
    """Return the categories that a list at a path names; None for no list, or one that names none."""
    if name == "csv":
        objects = tables.objects(root) if tables.is_table(root) else []
        reads = {category: partial(tables.table, root, passed_over, category) for category in objects}
        return _root(reads, []) if reads else None
    files = real_iad.categories(root) if root.is_dir() and real_iad.list_of(root) is None else []
    return _root({file.stem: partial(real_iad.real_iad, file, passed_over) for file in files}, []) if files else None


def _root(reads: Mapping[str, Callable[[], Dataset]], others: list[str]) -> Found:
    """Read the categories of a root. One that cannot be read ends nothing; raises InputError if none can."""
    datasets: list[Dataset] = []
    broken: dict[str, str] = {}
    for name, read in reads.items():
        try:
            dataset = read()
            dataset.require_masks_fit()
        except InputError as error:
            broken[name] = str(error)
        except OSError as error:
            broken[name] = f"{error.filename}: {error.strerror}"
        else:
            datasets.append(dataset)
    if not datasets:
        raise InputError(next(iter(broken.values())))
    return Found(datasets, True, others, broken)
