"""Real-IAD: a JSON file for each category lists images and masks, which lie in a folder of one of several sizes."""

from pathlib import Path
from typing import Any

from spade_index.errors import InputError
from spade_index.exact import read_json
from spade_index.images.passed_over import PassedOver

from ..labelled import GOOD, Dataset, LabelledImage
from .names import listed, listed_image, spelled_in

LISTS = ("realiad_jsons", "realiad_jsons/realiad_jsons", ".")  # folders of JSON files, below the root
SIZES = (
    "realiad_1024",
    "realiad_512",
    "realiad_256",
    "realiad_raw",
    ".",
)  # folders of images; the first there is taken


def real_iad(path: Path, passed_over: PassedOver) -> Dataset:
    """Read a category: CATEGORY.json, or a folder of its images that has the file near it."""
    file = path if path.is_file() else list_of(path)
    if file is None:
        raise InputError(f"{path}: no {path.name}.json with `train` and `test` in {_near(path)}")
    content = read_list(file)
    meta = content.get("meta") or {}
    if not isinstance(meta, dict):
        raise InputError(f"{file}: its `meta` is no object")
    normal_class = str(meta.get("normal_class", "OK"))
    entries = {split: content.get(split) or [] for split in ("train", "test")}
    for split, of in entries.items():
        entries[split] = [entry for entry in of if not passed_over.excludes(_name(file, entry, "image_path"))]
    base = _base(file, path, str(meta.get("prefix", "")), [*entries["test"], *entries["train"]])
    test = [_labelled(file, base, entry, normal_class) for entry in entries["test"]]
    train = [_labelled(file, base, entry, normal_class) for entry in entries["train"]]
    _require_once(file, [*test, *train])
    normal = [image.file for image in train if image.kind == GOOD]
    left_out = (f"{len(train) - len(normal)} defective training images",) if len(normal) < len(train) else ()
    found = Dataset(file.stem, "real-iad", path, test, normal, normal_from=f"`train` of {file}", left_out=left_out)
    return found.require_test(f"`test` of class {normal_class}", "`test` of another class")


def categories(root: Path) -> list[Path]:
    """Return the JSON files of a root of categories."""
    for folder in LISTS:
        files = [path for path in sorted((root / folder).glob("*.json")) if is_list(path)]
        if files:
            return files
    return []


def is_real_iad(path: Path) -> bool:
    """Return whether a path is the JSON file or the folder of images of a category."""
    return is_list(path) if path.is_file() else list_of(path) is not None


def list_of(folder: Path) -> Path | None:
    """Return the JSON file of a folder of images of a category, if it is near."""
    named = folder.resolve().name
    roots = (folder, folder.parent, folder.parent.parent)
    files = (root / lists / f"{named}.json" for root in roots for lists in LISTS)
    return next((file for file in files if is_list(file)), None)


def is_list(file: Path) -> bool:
    """Return whether a file is a list of training and test images."""
    try:
        return file.suffix.lower() == ".json" and file.is_file() and bool(read_list(file))
    except InputError:
        return False


def read_list(file: Path) -> dict[str, Any]:
    """Return the content of a list of training and test images. Raises InputError for anything else."""
    try:
        content = read_json(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a JSON file ({error})") from error
    splits = [content.get(split) for split in ("train", "test")] if isinstance(content, dict) else []
    if splits.count(None) == len(splits) or not all(split is None or isinstance(split, list) for split in splits):
        raise InputError(f"{file}: has no lists `train` and `test`")
    return content


def _base(file: Path, path: Path, prefix: str, entries: list[dict[str, Any]]) -> Path:
    """Return the folder that the names of images are relative to."""
    if not entries:
        raise InputError(f"{file}: lists no images")
    name = _name(file, entries[0], "image_path")
    roots = [path] if path.is_dir() else []
    roots += [parent / size for parent in (file.parent, *list(file.parents)[1:3]) for size in SIZES]
    places = [place for root in roots for place in (root / prefix, root / file.stem, root)]
    found = next((place for place in places if spelled_in(place, name).is_file()), None)
    if found is None:
        raise InputError(f"{file}: its first image, {name}, is in none of {', '.join(map(str, dict.fromkeys(roots)))}")
    return found


def _labelled(file: Path, base: Path, entry: dict[str, Any], normal_class: str) -> LabelledImage:
    image = listed_image(base, _name(file, entry, "image_path"), str(file))
    kind = _name(file, entry, "anomaly_class")
    if kind == normal_class:
        return LabelledImage(image, GOOD, None)
    mask = listed(base, _name(file, entry, "mask_path"), str(file)) if entry.get("mask_path") else None
    return LabelledImage(image, kind, mask)


def _require_once(file: Path, images: list[LabelledImage]) -> None:
    """Raise InputError if an image is listed twice: it would count twice, or be normal and tested."""
    known = set()
    for image in images:
        if image.file.path in known:
            raise InputError(f"{file}: lists {image.file.path} more than once")
        known.add(image.file.path)


def _name(file: Path, entry: Any, key: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
        raise InputError(f"{file}: an image without {key}")
    return str(entry[key])


def _near(path: Path) -> str:
    return f"it, {path.parent} and {path.parent.parent}, or in realiad_jsons there"
