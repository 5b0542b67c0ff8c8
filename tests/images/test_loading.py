"""Load in other processes: the same images in the same order, whichever of them fail."""

import os
import signal
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import ImageError, InputError
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images, load
from spade_index.images.loading import load_all
from spade_index.settings import Preprocessing

from helpers.tiny import image_file, png, tiny_backbone, write_images

SMALL = Preprocessing(input_size=(16, 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("loading") / "images", 40)


def cut_archive(images: Path, to: Path) -> tuple[Path, int]:
    """Write a truncated archive; return it, and the number of its images that can be read."""
    with tarfile.open(to, "w") as archive:
        for path in sorted(images.iterdir()):
            archive.add(path, path.name)
    to.write_bytes(to.read_bytes()[: to.stat().st_size * 8 // 10])
    readable = 0
    with suppress(InputError):
        for file in find_images(to):
            load(file, SMALL)
            readable += 1
    return to, readable


def test_processes_load_what_this_one_loads(folder: Path) -> None:
    files = list(find_images(folder))
    found = list(load_all(iter(files), SMALL, workers=2, ahead=20, on_error=pytest.fail))
    for file, other in zip(files, found, strict=True):
        one = load(file, SMALL)
        assert other.file is file
        assert (one.digest, one.thumbnail, one.geometry) == (other.digest, other.thumbnail, other.geometry)
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_an_undecodable_image_is_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    files = list(find_images(folder))
    files.insert(11, next(find_images(bad)))
    errors: list[ImageError] = []
    found = load_all(files, SMALL, workers=2, ahead=20, on_error=errors.append)
    assert [image.file.id for image in found] == [file.id for file in files if file.id != "bad.png"]
    (error,) = errors
    assert str(error).startswith(f"{bad}: ")


def test_images_before_a_damaged_part_are_kept(folder: Path, tmp_path: Path) -> None:
    archive, readable = cut_archive(folder, tmp_path / "a.tar")
    assert 0 < readable < 40
    backbone = tiny_backbone()
    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        with pytest.raises(InputError, match="damaged archive"):
            writer.add(find_images(archive), backbone, batch_size=7)
        assert len(writer.gallery) == readable
        assert list(writer.gallery.verify()) == []


def test_files_may_be_named_by_the_working_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, count in ((folder, 40), (folder.parent, 40)):
        monkeypatch.chdir(place)
        files = find_images(folder.relative_to(place))
        assert len(list(load_all(files, SMALL, workers=2, ahead=20, on_error=pytest.fail))) == count


def test_few_files_are_held_in_memory_where_they_are_large() -> None:
    """Members of compressed archives are in memory from when they are found."""
    found: list[int] = []

    def files() -> Iterator[ImageFile]:
        for number in range(20):
            found.append(number)
            yield replace(image_file(f"{number}.png", png(number)), size=200 << 20)

    loaded = load_all(files(), SMALL, workers=2, ahead=20, on_error=pytest.fail)
    for consumed, _ in enumerate(loaded, start=1):
        assert len(found) <= consumed + 2
    assert consumed == 20


def _die() -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def test_a_process_that_dies_costs_one_image(folder: Path) -> None:
    files = list(find_images(folder))
    deadly = ImageFile("deadly", "/deadly", 0, 0, _die)
    errors: list[ImageError] = []
    found = load_all([*files[:7], deadly, *files[7:]], SMALL, workers=1, ahead=50, on_error=errors.append)
    assert [image.file for image in found] == files
    assert [str(error) for error in errors] == ["/deadly: the process that decoded it died (signal 9)"]
