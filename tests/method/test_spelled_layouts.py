"""Datasets whose folders and tables are spelled and encoded otherwise, and what is no dataset."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from spade_index.errors import InputError
from spade_index.method.dataset import find_dataset
from spade_index.method.layouts import find_datasets

from helpers.datasets import write_dataset
from helpers.layouts import write_layout

SPELLED = [
    ("mvtec-ad", {"train": "Train", "test": "TEST", "ground_truth": "Ground Truth"}),
    ("mvtec-ad", {"ground_truth": "GroundTruth", "test/good": "test/Good"}),
    ("mvtec-ad-2", {"test_public/ground_truth": "test_public/Ground-Truth", "test_public": "Test_Public"}),
    ("mvtec-loco", {"train": "TRAIN", "test": "Test", "ground_truth": "Ground_Truth"}),
    ("btad", {"train/ok": "train/OK", "test": "Test", "ground_truth": "GROUND_TRUTH"}),
    ("ksdd2", {"train": "Train", "test": "Test"}),
]


@pytest.mark.parametrize(("name", "spelled"), SPELLED, ids=lambda value: value if isinstance(value, str) else "")
def test_folders_are_found_whatever_their_capitals(tmp_path, name, spelled):
    expected = find_dataset(write_layout(name, tmp_path / "usual"))
    path = write_layout(name, tmp_path / "other")
    for usual, other in spelled.items():
        (path / usual).rename(path / other)
    dataset = find_dataset(path)
    assert dataset.layout == expected.layout
    assert [(image.kind, image.mask is None) for image in dataset.test] == [
        (image.kind, image.mask is None) for image in expected.test
    ]
    assert len(dataset.normal) == len(expected.normal)
    assert len(dataset.unlabelled) == len(expected.unlabelled)


def test_masks_of_a_kind_of_defect_are_found_whatever_its_capitals(tmp_path):
    path = write_dataset(tmp_path / "set")
    kind = next(folder for folder in (path / "ground_truth").iterdir())
    kind.rename(kind.with_name(kind.name.upper()))
    assert all(image.mask is not None for image in find_dataset(path).test if image.kind == kind.name)


@pytest.mark.parametrize("name", ["masks", "ground_truth.zip"])
def test_what_may_be_masks_is_named_where_there_are_none(tmp_path, name):
    path = write_dataset(tmp_path / "set")
    (path / "ground_truth").rename(path / name)
    found = find_dataset(path)
    assert not any(image.mask for image in found.test)
    assert f"{name} as masks (they are looked for in ground_truth)" in found.left_out
    (path / name).rename(path / "ground_truth")
    (path / "masks").mkdir()
    assert not any("masks" in left for left in find_dataset(path).left_out)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_a_table_may_have_the_encoding_of_its_program(tmp_path, encoding):
    folder = write_layout("csv", tmp_path)
    name = "défaut.png".encode("latin-1" if encoding == "latin-1" else "utf-8")
    os.rename(folder / "images" / "bad0.png", os.fsencode(folder / "images") + b"/" + name)
    table = (folder / "labels.csv").read_text("utf-8-sig").replace("images/bad0.png", "images/défaut.png")
    (folder / "labels.csv").write_bytes(table.encode(encoding))
    test = find_dataset(folder).test
    shown = "d\\xe9faut.png" if encoding == "latin-1" else "défaut.png"
    assert shown in {Path(one.file.id).name for one in test}
    assert all(one.file.read() for one in test)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("set.zip", b"PK", "is an archive: unpack it"),
        ("set.csv", b"a,b\n1,2\n", "must name the columns image"),
        ("set.json", b"{", "not a JSON file"),
        ("set.txt", b"x", "is a file: a dataset is a folder"),
    ],
)
def test_a_file_that_lists_no_dataset_says_why(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        find_datasets(tmp_path / name)


@pytest.mark.parametrize("pair", [("A.png", "a.png"), ("1.png", "1.bmp")])
def test_images_whose_names_differ_in_capitals_or_suffix_have_their_own_masks(tmp_path, pair):
    path = write_dataset(tmp_path / "set", bad=0)
    for name in pair:
        for folder in ("test", "ground_truth"):
            Image.new("L", (8, 8)).save(path / folder / "hole" / name)
    Image.new("L", (8, 8)).save(path / "test" / "scratch" / "1.png")
    (path / "ground_truth" / "scratch" / "1_MASK.tif").write_bytes(b"")
    masks = {image.file.id: image.mask.name for image in find_dataset(path).test if image.mask}
    assert masks == {f"hole/{name}": name for name in pair} | {"scratch/1.png": "1_MASK.tif"}


def test_names_in_either_of_unicodes_forms_are_the_same(tmp_path):
    composed, apart = (unicodedata.normalize(form, "häle") for form in ("NFC", "NFD"))
    path = write_dataset(tmp_path / "set")
    (path / "test" / "hole").rename(path / "test" / composed)
    (path / "ground_truth" / "hole").rename(path / "ground_truth" / apart)
    (path / "test" / composed / "000.png").rename(path / "test" / composed / f"{apart}.png")
    (path / "ground_truth" / apart / "000_mask.png").rename(path / "ground_truth" / apart / f"{composed}_mask.png")
    test = find_dataset(path).test
    assert all(image.mask is not None for image in test if image.kind != "good")
    table = "".join(f"test/{composed}/{composed}.png,hole\n" if at else "image,label\n" for at in (0, 1))
    (path / "set.csv").write_text(table + "test/good/000.png,good\n", encoding="utf-8")
    assert [image.kind for image in find_dataset(path / "set.csv").test] == ["hole", "good"]


def test_a_mask_of_a_good_image_is_taken_so_that_what_it_marks_is_said(tmp_path):
    path = write_dataset(tmp_path / "set")
    (path / "ground_truth" / "hole").rename(path / "ground_truth" / "good")
    (path / "test" / "hole").rename(tmp_path / "elsewhere")
    masks = {image.file.id: image.mask for image in find_dataset(path).test if image.kind == "good"}
    assert masks["good/000.png"] == path / "ground_truth" / "good" / "000_mask.png"


def test_an_image_between_others_with_masks_is_not_good_for_want_of_one(tmp_path):
    path = write_layout("ksdd2", tmp_path)
    (path / "test" / "sub").mkdir()
    for name in ("20001.png", "20001_GT.png"):
        (path / "test" / name).rename(path / "test" / "sub" / name)
    kinds = {image.file.id: image.kind for image in find_dataset(path).test}
    assert kinds["sub/20001.png"] == "defect"
    (path / "test" / "sub" / "20001_GT.png").unlink()
    with pytest.raises(InputError, match=r"20001\.png: has no mask"):
        find_dataset(path)


def test_links_in_a_circle_end_among_masks(tmp_path):
    path = write_dataset(tmp_path / "set")
    for name in "ab":
        (path / "ground_truth" / "hole" / name).symlink_to(".")
    assert sum(image.mask is not None for image in find_dataset(path).test) == 6


@pytest.mark.parametrize("header", ["sep=;\r\n", "\n\n", '"SEP=;"\n'])
@pytest.mark.parametrize("quote", ["{}", ' "{}"'])
def test_a_table_may_be_written_by_a_spreadsheet_or_by_hand(tmp_path, monkeypatch, header, quote):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = write_dataset(tmp_path / "set")
    rows = [("Image Path", "Label"), ("~/set/test/good/000.png", "good"), ("./test/hole/000.png", "hole")]
    text = "\n".join(";".join(quote.format(cell) for cell in row) for row in rows)
    (folder / "set.csv").write_text(header + text)
    test = find_dataset(folder / "set.csv").test
    assert [(image.file.path, image.kind) for image in test] == [
        (str(folder / "test" / "good" / "000.png"), "good"),
        (str(folder / "test" / "hole" / "000.png"), "hole"),
    ]
