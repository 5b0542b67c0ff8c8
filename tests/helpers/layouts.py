"""One small test set, written in each layout that `evaluate` reads."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.datasets import write_dataset


def as_mvtec_ad(root: Path, source: Path) -> Path:
    """Write train/good, test/KIND, ground_truth/KIND, with a name of a mask in capitals."""
    shutil.copytree(source, root)
    for mask in (root / "ground_truth").rglob("000_mask.png"):
        mask.rename(mask.with_name("000_mask.PNG"))
    return root


def as_mpdd(root: Path, source: Path) -> Path:
    """Write what is as MVTec AD."""
    return as_mvtec_ad(root, source)


def as_btad(root: Path, source: Path) -> Path:
    """Write ok and ko; the masks are BMP files named as their images."""
    for at, (image, mask) in enumerate(defects(source)):
        copy(image, root / "test" / "ko" / f"{at:04d}.png")
        with Image.open(mask) as opened:
            (root / "ground_truth" / "ko").mkdir(parents=True, exist_ok=True)
            opened.save(root / "ground_truth" / "ko" / f"{at:04d}.bmp")
    for split in ("train", "test"):
        shutil.copytree(source / split / "good", root / split / "ok")
    return root


def as_mvtec_ad_2(root: Path, source: Path) -> Path:
    """Write test_public with its ground truth, a validation set, and private test sets without labels."""
    for at, (image, mask) in enumerate(defects(source)):
        copy(image, root / "test_public" / "bad" / f"{at:03d}_regular.png")
        copy(mask, root / "test_public" / "ground_truth" / "bad" / f"{at:03d}_regular_mask.png")
    shutil.copytree(source / "test" / "good", root / "test_public" / "good")
    shutil.copytree(source / "train" / "good", root / "train" / "good")
    copy(source / "test" / "good" / "000.png", root / "validation" / "good" / "000_regular.png")
    copy(source / "test" / "good" / "001.png", root / "test_private" / "000_regular.png")
    copy(source / "test" / "hole" / "001.png", root / "test_private_mixed" / "000_mixed.png")
    return root


def as_mvtec_loco(root: Path, source: Path) -> Path:
    """Write a folder of masks for each image: the two halves of a defect, with the value of its kind."""
    shutil.copytree(source, root, ignore=shutil.ignore_patterns("ground_truth"))
    config = []
    for value, kind in ((255, "hole"), (254, "scratch")):
        config.append(
            {
                "defect_name": kind,
                "pixel_value": value,
                "saturation_threshold": 0.5 if kind == "hole" else 20,
                "relative_saturation": kind == "hole",
            }
        )
        for path in sorted((source / "ground_truth" / kind).iterdir()):
            mask = np.asarray(Image.open(path)) > 0
            middle = int(np.nonzero(mask.any(0))[0].mean())
            left, right = mask.copy(), mask.copy()
            left[:, middle:], right[:, :middle] = False, False
            for at, half in enumerate((left, right)):
                file = root / "ground_truth" / kind / path.stem.removesuffix("_mask") / f"{at:03d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((half * value).astype(np.uint8)).save(file)
    (root / "defects_config.json").write_text(json.dumps(config))
    return root


def as_visa(root: Path, source: Path) -> Path:
    """Write Data/Images and Data/Masks of a category, split by a table in a folder beside it."""
    rows = [["object", "split", "label", "image", "mask"]]
    folder = root / "candle" / "Data"
    for at, (image, mask) in enumerate(defects(source)):
        copy(image, folder / "Images" / "Anomaly" / f"{at:03d}.JPG")
        marked = np.asarray(Image.open(mask)) > 0
        (folder / "Masks" / "Anomaly").mkdir(parents=True, exist_ok=True)
        Image.fromarray(marked.astype(np.uint8) * (1 + at)).save(folder / "Masks" / "Anomaly" / f"{at:03d}.png")
        names = (f"candle/Data/{part}/Anomaly/{at:03d}" for part in ("Images", "Masks"))
        rows.append(["candle", "test", "anomaly", f"{next(names)}.JPG", f"{next(names)}.png"])
    for split in ("train", "test"):
        for image in sorted((source / split / "good").iterdir()):
            copy(image, folder / "Images" / "Normal" / f"{split}{image.name}")
            rows.append(["candle", split, "normal", f"candle/Data/Images/Normal/{split}{image.name}", ""])
    write_table(root / "split_csv" / "1cls.csv", rows)
    write_table(root / "candle" / "image_anno.csv", [["image", "label", "mask"], [rows[1][3], "normal", ""]])
    return root / "candle"


def as_ksdd2(root: Path, source: Path) -> Path:
    """Write each image beside its mask; one of train has a defect."""
    for split in ("train", "test"):
        for at, image in enumerate(sorted((source / split / "good").iterdir())):
            copy(image, root / split / f"{10000 + at}.png")
            Image.new("L", Image.open(image).size).save(root / split / f"{10000 + at}_GT.png")
    for at, (image, mask) in enumerate(defects(source)):
        for split in ("train", "test")[at > 0 :]:
            copy(image, root / split / f"{20000 + at}.png")
            copy(mask, root / split / f"{20000 + at}_GT.png")
    return root


def as_real_iad(root: Path, source: Path) -> Path:
    """Write realiad_1024/CATEGORY and realiad_jsons/CATEGORY.json."""
    folder, lists = root / "realiad_1024" / "audiojack", {"train": [], "test": []}
    for split in ("train", "test"):
        for at, image in enumerate(sorted((source / split / "good").iterdir())):
            name = f"OK/S{at:04d}/audiojack_{split}.png"
            copy(image, folder / name)
            lists[split].append(entry("OK", name, None))
    for at, (image, mask) in enumerate(defects(source)):
        name = f"NG/BX/S{at:04d}/audiojack_NG"
        copy(image, folder / f"{name}.png")
        copy(mask, folder / f"{name}_mask.png")
        lists["test"].append(entry("BX", f"{name}.png", f"{name}_mask.png"))
    meta = {"meta": {"prefix": "audiojack/", "normal_class": "OK", "pre_transform": None}}
    (root / "realiad_jsons").mkdir()
    (root / "realiad_jsons" / "audiojack.json").write_text(json.dumps(meta | lists))
    return root / "realiad_jsons" / "audiojack.json"


def as_csv(root: Path, source: Path) -> Path:
    """Write all images into one folder, and a table with semicolons and a byte-order mark."""
    rows = [["Image", "Label", "Mask", "Split"]]
    for split in ("train", "test"):
        for image in sorted((source / split / "good").iterdir()):
            copy(image, root / "images" / f"{split}{image.name}")
            rows.append([f"images/{split}{image.name}", "good", "", split])
    for at, (image, mask) in enumerate(defects(source)):
        copy(image, root / "images" / f"bad{at}.png")
        copy(mask, root / "masks" / f"bad{at}.png")
        rows.append([f"images/bad{at}.png", image.parent.name, f"masks\\bad{at}.png", "test"])
    write_table(root / "labels.csv", rows, separator=";")
    return root


WRITERS = {
    "mvtec-ad": as_mvtec_ad,
    "mvtec-ad-2": as_mvtec_ad_2,
    "mvtec-loco": as_mvtec_loco,
    "visa": as_visa,
    "btad": as_btad,
    "mpdd": as_mpdd,
    "ksdd2": as_ksdd2,
    "real-iad": as_real_iad,
    "csv": as_csv,
}


def write_layout(name: str, folder: Path) -> Path:
    """Write the test set in a layout below a folder; return the path to evaluate."""
    source = write_dataset(folder / "source")
    return WRITERS[name](folder / name, source)


def defects(source: Path) -> list[tuple[Path, Path]]:
    """Return defective images and their masks."""
    masks = sorted((source / "ground_truth").rglob("*.png"))
    return [(source / "test" / mask.parent.name / f"{mask.stem.removesuffix('_mask')}.png", mask) for mask in masks]


def copy(file: Path, to: Path) -> None:
    """Copy a file; make its folder."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


def entry(kind: str, image: str, mask: str | None) -> dict[str, str | None]:
    """Return an image as Real-IAD lists it."""
    return {"category": "audiojack", "anomaly_class": kind, "image_path": image, "mask_path": mask}


def write_table(path: Path, rows: list[list[str]], separator: str = ",") -> None:
    """Write a CSV file with a byte-order mark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
