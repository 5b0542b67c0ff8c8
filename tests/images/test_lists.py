"""Text lists in the encodings that programs write, with names that look like something else."""

import codecs
import io
import os
import sys
import threading
import tracemalloc
import unicodedata
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from spade_index.errors import ImageError
from spade_index.images import find_images, load
from spade_index.images.lists import STDIN, read_list
from spade_index.images.passed_over import PassedOver
from spade_index.settings import Preprocessing

from helpers.tiny import random_image, write_images

SMALL = Preprocessing(input_size=(16, 16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path, 3)


def listed(path: Path, data: bytes) -> list[str]:
    path.write_bytes(data)
    files = list(find_images(path))
    for file in files:
        load(file, SMALL)
    return [file.id for file in files]


@pytest.mark.parametrize(
    "encoded",
    [
        codecs.BOM_UTF8 + b"000.png\n001.png\n",
        "\ufeff000.png\n001.png\n".encode("utf-16-le"),
        "\ufeff000.png\r\n001.png\r\n".encode("utf-16-be"),
        "\ufeff000.png\n001.png\n".encode("utf-32-le"),
        "\ufeff000.png\n001.png\n".encode("utf-32-be"),
        b"000.png\r\n001.png\r\n",
        b"000.png\r001.png\r",
        b"000.png\n001.png",
    ],
    ids=["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "windows", "old mac", "no end"],
)
def test_a_byte_order_mark_and_line_ends_do_not_matter(folder: Path, encoded: bytes) -> None:
    assert listed(folder / "some.txt", encoded) == ["000.png", "001.png"]


@pytest.mark.parametrize(
    "name", ["#1.png", "# 1.png", " lead.png", "a\u2028b.png", "a\x0cb.png", "a\x85b.png", "~x.png"]
)
def test_a_name_is_that_of_its_file(folder: Path, name: str) -> None:
    random_image(7).save(folder / name)
    assert listed(folder / "some.txt", f"000.png\n{name}\n".encode()) == ["000.png", name]


def test_a_name_in_another_encoding_is_that_of_its_file(folder: Path) -> None:
    (folder / "000.png").rename(os.path.join(os.fsencode(folder), b"caf\xe9.png").decode("utf-8", "surrogateescape"))
    assert listed(folder / "some.txt", b"caf\xe9.png\n") == ["caf\\xe9.png"]


def test_comments_are_counted(folder: Path) -> None:
    (folder / "some.txt").write_text("# chosen by hand\n000.png\n#001.png\n")
    passed_over = PassedOver()
    assert [file.id for file in find_images(folder / "some.txt", passed_over=passed_over)] == ["000.png"]
    assert "2 comments in lists" in str(passed_over)


def test_the_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "lists").mkdir()
    assert listed(folder / "lists" / "some.txt", b"~/000.png\n") == [f"{folder}/000.png"]


def test_what_is_missing_is_named_with_its_line(folder: Path) -> None:
    (folder / "some.txt").write_text("# first\n000.png\n\ngone.png\n~no-such-user/x.png\n")
    good, *missing = find_images(folder / "some.txt")
    assert good.id == "000.png"
    for file, name, line in zip(missing, ("gone.png", "~no-such-user/x.png"), (4, 5), strict=True):
        with pytest.raises(ImageError, match=rf"{name}: .*No such file.*line {line} of .*some\.txt"):
            load(file, SMALL)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a/" * 3000 + "x.png"])
def test_a_name_that_cannot_be_is_named(folder: Path, name: str) -> None:
    (folder / "some.txt").write_text(f"{name}\n000.png\n")
    bad, good = find_images(folder / "some.txt")
    with pytest.raises(ImageError, match="File name too long"):
        load(bad, SMALL)
    assert load(good, SMALL).file.id == "000.png"


def test_a_listed_folder_is_named(folder: Path) -> None:
    (folder / "some.txt").write_text(f"{folder}\n")
    (file,) = find_images(folder / "some.txt")
    with pytest.raises(ImageError, match="Is a directory"):
        load(file, SMALL)


def test_a_pipe_is_read_as_a_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    os.mkfifo(folder / "pipe")
    writer = threading.Thread(target=lambda: (folder / "pipe").write_text("001.png\n"))
    writer.start()
    assert [file.id for file in find_images(folder / "pipe")] == ["001.png"]
    writer.join()


def test_a_listed_pipe_is_counted(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "some.txt").write_text("pipe.png\n000.png\n")
    passed_over = PassedOver()
    assert [file.id for file in find_images(folder / "some.txt", passed_over=passed_over)] == ["000.png"]
    assert "1 pipes" in str(passed_over)


def test_a_name_in_another_of_unicodes_forms_is_that_of_its_file(folder: Path) -> None:
    apart = unicodedata.normalize("NFD", "häle")
    (folder / apart).mkdir()
    (folder / "000.png").rename(folder / apart / "ä.png")
    assert listed(folder / "some.txt", "häle/ä.png\n".encode()) == [f"{apart}/ä.png"]


def test_a_list_from_a_pipe_takes_no_more_memory_than_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\n" * (8 << 20)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    tracemalloc.start()
    try:
        found = read_list(STDIN)
        assert [*islice(found.lines(), 1000)] == [""] * 1000
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
    finally:
        tracemalloc.stop()
