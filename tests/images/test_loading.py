"""Load in threads and in processes: the same images in the same order, whichever of them fail."""

import os
import signal
import tarfile
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import ImageError, InputError
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage, ImageFile, find_images, load
from spade_index.images.loading import PROCESSES_FROM, load_all, pays_in_processes
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


def test_processes_load_what_threads_load(folder: Path) -> None:
    def loaded(processes: bool) -> list[DecodedImage]:
        found = load_all(find_images(folder), SMALL, workers=2, ahead=20, on_error=pytest.fail, processes=processes)
        return list(found)

    for one, other in zip(loaded(False), loaded(True), strict=True):
        assert one.file is not other.file
        assert (one.file.id, one.file.read(), one.digest, one.thumbnail, one.geometry) == (
            other.file.id,
            other.file.read(),
            other.digest,
            other.thumbnail,
            other.geometry,
        )
        np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("processes", [False, True])
def test_an_undecodable_image_is_named_and_left_out(folder: Path, tmp_path: Path, processes: bool) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    files = list(find_images(folder))
    files.insert(11, next(find_images(bad)))
    errors: list[ImageError] = []
    found = load_all(files, SMALL, workers=2, ahead=20, on_error=errors.append, processes=processes)
    assert [image.file.id for image in found] == [file.id for file in files if file.id != "bad.png"]
    (error,) = errors
    assert str(error).startswith(f"{bad}: ")


@pytest.mark.parametrize("processes", [False, True])
def test_images_before_a_damaged_part_are_kept(folder: Path, tmp_path: Path, processes: bool) -> None:
    archive, readable = cut_archive(folder, tmp_path / "a.tar")
    assert 0 < readable < 40
    backbone = tiny_backbone()
    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        with pytest.raises(InputError, match="damaged archive"):
            writer.add(find_images(archive), backbone, batch_size=7, processes=processes)
        assert len(writer.gallery) == readable
        assert list(writer.gallery.verify()) == []


def _die() -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def test_a_process_that_dies_is_one_clear_error(folder: Path) -> None:
    files = [*find_images(folder), ImageFile("deadly", "/deadly", 0, 0, _die)]
    with pytest.raises(InputError, match="a decoding process died"):
        list(load_all(files, SMALL, workers=1, ahead=50, on_error=pytest.fail, processes=True))


def test_decoding_in_processes_pays_for_many_images_only() -> None:
    (image,) = [image_file("one.png", png(1))]
    assert not pays_in_processes([image] * (PROCESSES_FROM - 1))
    assert pays_in_processes(iter([image] * PROCESSES_FROM))
    endless = repeat(image)  # an archive of millions is not read to its end
    assert pays_in_processes(endless)
