"""The same test set in each layout: found, and judged alike; what is missing is named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.errors import InputError
from spade_index.gallery import Gallery
from spade_index.images.masks import Marked
from spade_index.method.dataset import GOOD, UNLABELLED, Saturation, find_dataset
from spade_index.method.detector import Detector
from spade_index.method.evaluation import evaluate
from spade_index.method.layouts import KNOWN, find_datasets
from spade_index.settings import LAYOUTS, SearchSettings

from helpers.datasets import write_dataset
from helpers.layouts import WRITERS, as_csv, as_mvtec_ad, as_real_iad, as_visa, write_layout, write_table
from helpers.tiny import build, tiny_backbone

SEARCH = SearchSettings(gallery_neighbours=4, score_neighbours=2, smoothing=1.0)
NAMES = [
    "images",
    "image_roc_auc",
    "image_average_precision",
    "image_f1_max",
    "pixel_roc_auc",
    "pixel_average_precision",
    "pixel_f1_max",
    "pro",
    "pro_05",
]


@pytest.fixture(scope="module")
def figures_of(tmp_path_factory: pytest.TempPathFactory):
    """Evaluate a dataset with a gallery of the same normal images; return its summary."""
    folder, backbone = tmp_path_factory.mktemp("layouts"), tiny_backbone()
    build(folder / "gallery", write_dataset(folder / "source") / "train" / "good", backbone)

    def figures(dataset) -> dict:
        with Gallery(folder / "gallery") as gallery:
            return evaluate(Detector(gallery, backbone, SEARCH), dataset.test).summary("both")

    return figures


def test_every_layout_is_tested():
    assert set(WRITERS) == set(LAYOUTS) == set(KNOWN)


@pytest.mark.parametrize("name", LAYOUTS)
def test_figures_are_the_same_in_each_layout(tmp_path, figures_of, name):
    usual = find_dataset(write_dataset(tmp_path / "usual"))
    path = write_layout(name, tmp_path)
    dataset = find_dataset(path)
    assert dataset.layout == ("mvtec-ad" if name == "mpdd" else name)
    assert find_dataset(path, name).layout == name
    contents = [sorted(file.read() for file in one.require_normal()) for one in (usual, dataset)]
    assert contents[0] == contents[1]
    expected, found = figures_of(usual), figures_of(dataset)
    for figure in NAMES:
        assert found[figure] == pytest.approx(expected[figure], abs=1e-12), figure
    assert found["why_no_pixel_figures"] is None
    if name == "mvtec-loco":
        assert found["spro"] >= found["pro"] > 0.3
        assert found["spro"] != expected["pro"]
    else:
        assert "spro" not in found


def test_private_images_have_no_label(tmp_path):
    dataset = find_dataset(write_layout("mvtec-ad-2", tmp_path))
    assert [image.file.id for image in dataset.unlabelled] == [
        "test_private/000_regular.png",
        "test_private_mixed/000_mixed.png",
    ]
    assert {image.kind for image in dataset.unlabelled} == {UNLABELLED}
    assert {image.kind for image in dataset.test} == {GOOD, "bad"}


@pytest.mark.parametrize("name", ["mvtec-ad", "btad", "visa", "real-iad", "csv"])
def test_a_root_of_categories_is_found(tmp_path, name):
    source = write_dataset(tmp_path / "source")
    root = tmp_path / "root"
    names = {"a", "b"}
    if name == "visa":
        as_visa(root, source)
        names = {"candle"}
    elif name == "real-iad":
        as_real_iad(root, source)
        names = {"audiojack"}
    elif name == "csv":
        as_csv(root, source)
        lines = (root / "labels.csv").read_text("utf-8-sig").splitlines()
        rows = [line.split(";") for line in lines]
        doubled = [[*rows[0], "object"], *([*row, part] for part in sorted(names) for row in rows[1:])]
        write_table(root / "labels.csv", doubled)
    else:
        for category in names:
            WRITERS[name](root / category, source)
        (root / "notes").mkdir()
    found = find_datasets(root)
    assert found.is_root
    assert {dataset.name for dataset in found.datasets} == names
    assert {len(dataset.test) for dataset in found.datasets} == {10}
    assert {dataset.layout for dataset in found.datasets} == {name}
    assert found.passed_over == {"mvtec-ad": ["notes"], "btad": ["notes"]}.get(name, [])
    with pytest.raises(InputError, match="several categories"):
        find_dataset(root)


def test_folders_below_a_kind_of_defect_are_no_folders_of_masks(tmp_path):
    root = write_dataset(tmp_path / "set")
    for part in ("test", "ground_truth"):
        (root / part / "hole").rename(root / "batch")
        (root / part / "hole").mkdir()
        (root / "batch").rename(root / part / "hole" / "batch")
    dataset = find_dataset(root)
    assert dataset.layout == "mvtec-ad"
    masks = [image.mask for image in dataset.test if image.kind == "hole"]
    assert masks == [root / "ground_truth" / "hole" / "batch" / f"{at:03d}_mask.png" for at in range(3)]


def test_the_table_of_visa_may_be_named(tmp_path):
    candle = write_layout("visa", tmp_path)
    (dataset,) = find_datasets(candle.parent / "split_csv" / "1cls.csv").datasets
    assert (dataset.name, len(dataset.test), len(dataset.normal)) == ("candle", 10, 12)


def test_saturation_is_a_share_of_the_defect_or_an_area_of_the_mask():
    pixels = np.zeros((10, 10), bool)
    pixels[:4, :5] = True  # 20 of the 100 that are left of 80 of 400
    marked = Marked(Path("m.png"), pixels, value=255, area=80, total=400)
    assert Saturation(0.5, relative=True).enough(marked) == 10
    assert Saturation(40, relative=False).enough(marked) == 10
    assert Saturation(1000, relative=False).enough(marked) == 20


def test_a_folder_of_images_of_real_iad_finds_its_list(tmp_path):
    file = write_layout("real-iad", tmp_path)
    dataset = find_dataset(file.parent.parent / "realiad_1024" / "audiojack")
    assert (dataset.name, dataset.layout, len(dataset.test)) == ("audiojack", "real-iad", 10)


def test_a_folder_in_no_layout_is_refused_with_what_was_looked_for(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "1.png")
    with pytest.raises(InputError) as raised:
        find_dataset(tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    assert all(name in message for name in LAYOUTS)
    assert "split_csv/1cls.csv" in message
    with pytest.raises(InputError, match=r"btad: train/ok, test/ok"):
        find_datasets(write_dataset(tmp_path / "dataset"), "btad")
    with pytest.raises(InputError, match="no such file"):
        find_dataset(tmp_path / "missing")


def test_visa_without_its_split_is_refused(tmp_path):
    candle = write_layout("visa", tmp_path)
    (candle.parent / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(InputError, match=r"split_csv/1cls\.csv"):
        find_dataset(candle)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["file", "verdict"]], "no dataset in a known layout"),
        ([["image", "label"], ["missing.png", "good"]], "missing.png does not exist"),
        ([["image", "label", "split"], ["1.png", "good", "exam"]], "'exam'"),
        ([["image", "label"], ["1.png", "good"]], "another label"),
        ([["image", "label"], ["1.png", "good"], ["./1.png", "hole"]], "labels.csv line 3: ./1.png is in"),
        (
            [["image", "label", "split"], ["1.png", "good", "train"], ["1.png", "good", "test"]],
            "another label or split",
        ),
        ([["image", "label"], ["1.png", "hole"], ["link.png", "dent"]], "labels.csv line 3: link.png is in"),
        ([["image", "label", "mask"], ["1.png", "hole", "1.png"], ["1.png", "hole", "link.png"]], "another mask"),
        ([["image", "label", "label"], ["1.png", "good", "hole"]], "has the column label more than once"),
        ([["image", "label"], ["1", "5.png", "good"]], "line 2: has more cells than the first line"),
        ([["image", "label", "split"], ["1.png", "good"]], "line 2: ends before its split"),
        ([["image", "label"], ["1.png", "None"]], "line 2: the label none may mean"),
        ([["image", "label"], ["", "good"], ["1.png", "hole"]], "is not an image"),
        ([["image", "label"], [".", "good"], ["1.png", "hole"]], "is not an image"),
        ([["image", "label", "mask"], ["1.png", "good", ""], ["1.png", "hole", "gone.png"]], "gone.png"),
    ],
)
def test_a_table_that_is_wrong_is_named(tmp_path, rows, words):
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "link.png").symlink_to("1.png")
    write_table(tmp_path / "labels.csv", rows)
    with pytest.raises(InputError) as raised:
        find_dataset(tmp_path)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_rows_that_repeat_another_count_once_and_are_counted(tmp_path):
    for name in ("1.png", "2.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    rows = [["image", "label"], ["1.png", "good"], ["2.png", "hole"], ["./2.png", "hole"], ["1.png", "GOOD"]]
    write_table(tmp_path / "labels.csv", rows)
    dataset = find_dataset(tmp_path)
    assert [image.file.id for image in dataset.test] == ["1.png", "2.png"]
    assert dataset.left_out == ("2 rows that repeat another",)


def test_labels_of_a_table_may_be_numbers_or_masks(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "empty.png")
    Image.new("L", (8, 8), 1).save(tmp_path / "full.png")
    for at in range(4):
        Image.new("L", (8, 8)).save(tmp_path / f"{at}.png")
    rows = [["image_path", "label", "mask_path"], ["0.png", "0", "nan"], ["1.png", "1.0", "full.png"]]
    rows += [["2.png", "NaN", "empty.png"], ["3.png", "", "full.png"], ["full.png", "-1", ""]]
    write_table(tmp_path / "labels.csv", rows)
    dataset = find_dataset(tmp_path / "labels.csv")
    assert [image.kind for image in dataset.test] == ["good", "defect", "good", "defect"]
    assert len(dataset.unlabelled) == 1
    with pytest.raises(InputError, match="no normal images"):
        dataset.require_normal()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": [], "test": []}, "lists no images"),
        ({"test": [{"image_path": "gone.png"}]}, "gone.png"),
        ({"test": [{"mask_path": "1.png"}]}, "image_path"),
        ({"test": {"image_path": "1.png"}, "train": []}, "has no lists"),
        ({"test": [{"image_path": "1.png"}], "meta": ["OK"]}, "its `meta` is no object"),
        ({"test": [{"image_path": "1.png"}]}, "anomaly_class"),
        ({"test": [{"image_path": "1.png", "anomaly_class": "OK"}] * 2}, "1.png more than once"),
        ({"test": [{"image_path": "1.png", "anomaly_class": "BX", "mask_path": "gone"}]}, "gone does not exist"),
        ({"test": [{"image_path": "list.txt", "anomaly_class": "OK"}]}, "list.txt is not an image"),
    ],
)
def test_a_list_of_real_iad_that_is_wrong_is_named(tmp_path, content, words):
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "list.txt").write_text("1.png")
    (tmp_path / "part.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as raised:
        find_dataset(tmp_path / "part.json")
    assert words in str(raised.value)
    assert str(tmp_path / "part.json") in str(raised.value)


def test_a_wrong_list_of_saturations_is_named(tmp_path):
    root = write_layout("mvtec-loco", tmp_path)
    (root / "defects_config.json").write_text('[{"pixel_value": 255}]')
    with pytest.raises(InputError, match=r"defects_config\.json"):
        find_dataset(root)


def test_folders_that_systems_leave_behind_are_no_kinds_of_defect(tmp_path):
    root = as_mvtec_ad(tmp_path / "set", write_dataset(tmp_path / "source"))
    for name in ("@eaDir", ".ipynb_checkpoints"):
        (root / "test" / name).mkdir()
        Image.new("L", (8, 8)).save(root / "test" / name / "1.png")
    assert {image.kind for image in find_dataset(root).test} == {"good", "hole", "scratch"}


def test_a_mask_of_a_normal_image_in_a_table_must_be_empty(tmp_path, figures_of):
    root: Path = write_layout("csv", tmp_path)
    usual = figures_of(find_dataset(root))
    lines = (root / "labels.csv").read_text("utf-8-sig").splitlines()
    lines = [line.replace(";good;;test", ";good;masks/bad0.png;test") for line in lines]
    (root / "labels.csv").write_text("\n".join(lines))
    figures = figures_of(find_dataset(root))
    assert figures["pixel_roc_auc"] == usual["pixel_roc_auc"]


def test_a_category_that_cannot_be_listed_is_named_beside_the_others(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_dataset(tmp_path / "root" / name)
    closed = tmp_path / "root" / "b" / "ground_truth" / "hole"
    listed, scanned = Path.iterdir, os.scandir

    def refuse(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", lambda path: (refuse(path), listed(path))[1])
    monkeypatch.setattr(os, "scandir", lambda path: (refuse(path), scanned(path))[1])
    found = find_datasets(tmp_path / "root")
    assert [dataset.name for dataset in found.datasets] == ["a"]
    assert "hole: cannot be read (Permission denied)" in found.broken["b"]
