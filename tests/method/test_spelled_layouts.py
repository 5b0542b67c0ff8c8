"""Datasets whose folders and tables are spelled and encoded otherwise, and what is no dataset."""

import os
from pathlib import Path

import pytest

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
