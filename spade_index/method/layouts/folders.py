"""Layouts in which folders say what is normal: MVTec AD, AD 2 and LOCO, BTAD, MPDD."""

from collections.abc import Mapping
from pathlib import Path

from spade_index.errors import InputError
from spade_index.exact import read_json
from spade_index.images.files import SUFFIXES
from spade_index.images.find import ImageFile, find_images, is_archive
from spade_index.images.passed_over import PassedOver, is_debris

from ..labelled import GOOD, UNLABELLED, Dataset, LabelledImage, Saturation
from .masks import Masks
from .names import below, plain

GOOD_FOLDERS = (GOOD, "ok", "normal")
GROUND_TRUTH, PUBLIC = "ground_truth", "test_public"
PRIVATE = ("test_private", "test_private_mixed")
MASK_ENDINGS = ("_mask", "", "_gt", "_label")
SATURATION = ("pixel_value", "saturation_threshold", "relative_saturation")
DEFECTS_CONFIG = "defects_config.json"


def mvtec_ad(root: Path, passed_over: PassedOver, layout: str = "mvtec-ad") -> Dataset:
    """Read train/good, test/KIND/* and ground_truth/KIND/*_mask.png; `ok` and `normal` are as good as `good`."""
    truth = below(root, GROUND_TRUTH)
    test = labelled(below(root, "test"), truth, passed_over)
    return _dataset(root, layout, passed_over, test).require_test("test/good", "test/KIND", truth)


def btad(root: Path, passed_over: PassedOver) -> Dataset:
    """Read train/ok, test/ok, test/ko and ground_truth/ko."""
    return mvtec_ad(root, passed_over, "btad")


def mpdd(root: Path, passed_over: PassedOver) -> Dataset:
    """Read what is as MVTec AD."""
    return mvtec_ad(root, passed_over, "mpdd")


def loco(root: Path, passed_over: PassedOver) -> Dataset:
    """Read MVTec LOCO: a folder of masks for each image, and how much of each kind of defect is enough to find it."""
    saturations = _saturations(root / DEFECTS_CONFIG)
    truth = below(root, GROUND_TRUTH)
    test = labelled(below(root, "test"), truth, passed_over, saturations)
    return _dataset(root, "mvtec-loco", passed_over, test).require_test("test/good", "test/KIND", truth)


def mvtec_ad_2(root: Path, passed_over: PassedOver) -> Dataset:
    """Read test_public with its ground truth; images of test_private and test_private_mixed have no labels."""
    public = below(root, PUBLIC)
    truth = below(public, GROUND_TRUTH)
    test = labelled(public, truth, passed_over)
    private = [
        LabelledImage(file, UNLABELLED, None)
        for split in PRIVATE
        if (folder := below(root, split)).is_dir()
        for file in find_images(folder, f"{split}/", passed_over, pages=False)
    ]
    return _dataset(root, "mvtec-ad-2", passed_over, test, private).require_test(
        "test_public/good", "test_public/bad", truth
    )


def is_mvtec_ad(root: Path) -> bool:
    """Return whether a folder has a test set, or normal images, in folders."""
    return any(_folders(below(root, part)) for part in ("test", "train"))


def is_btad(root: Path) -> bool:
    """Return whether good images are called ok, and others ko."""
    return is_mvtec_ad(root) and any(below(root, part, "ok").is_dir() for part in ("test", "train"))


def is_loco(root: Path) -> bool:
    """Return whether defects have folders of masks, or a file that says how much of them is enough."""
    if not is_mvtec_ad(root):
        return False
    return (root / DEFECTS_CONFIG).is_file() or any(
        (images / f"{folder.name}{suffix}").is_file()
        for kind in _folders(below(root, GROUND_TRUTH))
        for images in [below(root, "test", kind.name)]
        for folder in _folders(kind)
        for suffix in SUFFIXES
    )


def is_mvtec_ad_2(root: Path) -> bool:
    """Return whether there is a public test set."""
    return below(root, PUBLIC).is_dir()


def labelled(
    test: Path, ground_truth: Path, passed_over: PassedOver, saturations: Mapping[int, Saturation] | None = None
) -> list[LabelledImage]:
    """Return the images below test/KIND with their masks below ground_truth/KIND."""
    found = []
    for kind in (path for path in _folders(test) if path != ground_truth):
        good = kind.name.casefold() in GOOD_FOLDERS
        masks = Masks(below(ground_truth, kind.name))
        for file in find_images(kind, f"{kind.name}/", passed_over, pages=False):
            mask = masks.of(Path(file.id).relative_to(kind.name), MASK_ENDINGS)
            found.append(LabelledImage(file, GOOD if good else kind.name, mask, saturations))
    return found


def _dataset(
    root: Path,
    layout: str,
    passed_over: PassedOver,
    test: list[LabelledImage],
    unlabelled: list[LabelledImage] | None = None,
) -> Dataset:
    normal: list[ImageFile] = []
    left_out = []
    for folder in _folders(below(root, "train")):
        if folder.name.casefold() in GOOD_FOLDERS:
            normal += find_images(folder, passed_over=passed_over)
        else:
            left_out.append(f"train/{folder.name}")
    if below(root, "validation").is_dir():
        left_out.append("validation")
    if not any(image.mask for image in test):
        left_out += [f"{name} as masks (they are looked for in {GROUND_TRUTH})" for name in _others(root)]
    return Dataset(root.resolve().name, layout, root, test, normal, unlabelled or [], left_out=tuple(left_out))


def _others(root: Path) -> list[str]:
    """Return the names of folders and archives in a folder that belong to no layout."""
    known = {plain(name) for name in ("train", "test", "validation", GROUND_TRUTH, PUBLIC, *PRIVATE)}
    return sorted(
        entry.name
        for entry in root.iterdir()
        if (entry.is_dir() or is_archive(entry.name)) and not is_debris(entry.name) and plain(entry.name) not in known
    )


def _saturations(path: Path) -> dict[int, Saturation]:
    """Return how much of each kind of defect is enough, by its value in the masks; {} without the file."""
    if not path.is_file():
        return {}
    try:
        return dict(map(_saturation, read_json(path.read_text(encoding="utf-8-sig"))))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a list of pixel_value, saturation_threshold and relative_saturation ({error!r})"
        ) from error


def _saturation(entry: dict[str, object]) -> tuple[int, Saturation]:
    """Return a kind's value in the masks, and how much of it is enough. Raises KeyError, ValueError."""
    value, threshold, relative = (entry[name] for name in SATURATION)
    if type(value) is not int or type(threshold) not in (int, float) or not isinstance(relative, bool):
        raise ValueError(f"other types in {entry}")
    return value, Saturation(float(threshold), relative=relative)  # type: ignore[arg-type]


def _folders(path: Path) -> list[Path]:
    """Return the folders in a folder, without those that systems leave behind."""
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not is_debris(entry.name))
