"""Find images in folders, lists and archives, in a fixed order with unique ids; load them in that order."""

import os
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.images import ImageFile, find_images, load
from spade_index.images.loading import load_all
from spade_index.settings import Preprocessing

from helpers.tiny import random_image, write_images

SMALL = Preprocessing(input_size=(16, 16))


def ids(source: Path, prefix: str = "") -> list[str]:
    return [file.id for file in find_images(source, prefix)]


def pack(folder: Path, path: Path) -> Path:
    """Write a tar archive of a folder, compressed as its suffix says."""
    with tarfile.open(path, "w:" + path.name.partition(".tar")[2].removeprefix(".")) as archive:
        archive.add(folder, ".")
    return path


def read_all(path: Path) -> list[bytes]:
    return [file.read() for file in find_images(path)]


def test_a_folder_is_searched_recursively_in_sorted_order(tmp_path):
    for name in ("b/2.PNG", "b/10.jpeg", "a/z/deep.tif", "top.webp", "A.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        random_image(0).save(tmp_path / name)
    for name in ("notes.txt", "a/data.npy", "b/README"):
        (tmp_path / name).write_text("no image")
    assert ids(tmp_path) == ["A.bmp", "top.webp", "a/z/deep.tif", "b/10.jpeg", "b/2.PNG"]
    assert ids(tmp_path) == ids(tmp_path)


def test_a_found_image_has_an_absolute_path(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 1)
    monkeypatch.chdir(tmp_path)
    (file,) = find_images("images")
    path = tmp_path / "images" / "000.png"
    assert file.path == str(path)
    assert (file.size, file.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert file.read() == path.read_bytes()


def test_a_single_files_id_is_its_name(tmp_path):
    folder = write_images(tmp_path / "images", 1)
    assert ids(folder / "000.png") == ["000.png"]
    assert ids(folder / "000.png", prefix="line-3/") == ["line-3/000.png"]


def test_circular_links_end(tmp_path):
    folder = write_images(tmp_path / "images", 2)
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder)
    assert ids(folder) == ["000.png", "001.png"]


def test_a_link_to_another_folder_is_followed(tmp_path):
    elsewhere = write_images(tmp_path / "elsewhere", 1)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(elsewhere)
    assert ids(tmp_path / "images") == ["link/000.png"]


def test_a_name_that_is_not_utf8_is_escaped(tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    try:
        with open(name, "wb") as file:
            random_image(0).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (found,) = find_images(tmp_path)
    assert found.id == "caf\\xe9.png"
    found.path.encode("utf-8")
    assert load(found, SMALL).pixels.shape == (16, 16, 3)


def test_a_list_is_relative_to_itself_and_may_hold_comments(tmp_path):
    folder = write_images(tmp_path / "images", 3)
    listing = tmp_path / "some.txt"
    listing.write_text(f"# chosen by hand\n\nimages/002.png\n  images/000.png  \n{folder / '001.png'}\n")
    assert ids(listing) == ["images/002.png", "images/000.png", str(folder / "001.png")]
    assert read_all(listing) == [(folder / f"{name}.png").read_bytes() for name in ("002", "000", "001")]


def test_a_listed_image_that_is_missing_is_named_when_it_is_loaded(tmp_path):
    (tmp_path / "some.lst").write_text("gone.png\n")
    (file,) = find_images(tmp_path / "some.lst")
    with pytest.raises(ImageError, match=r"gone\.png.*No such file"):
        load(file, SMALL)


def test_a_list_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "some.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"some\.txt: not a text list"):
        ids(tmp_path / "some.txt")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_an_archive_is_read_like_its_folder(tmp_path, suffix):
    folder = write_images(tmp_path / "images", 3)
    (folder / "sub").mkdir()
    random_image(7).save(folder / "sub" / "x.jpg")
    (folder / "notes.md").write_text("no image")
    path = pack(folder, tmp_path / f"a{suffix}")
    files = {file.id: file for file in find_images(path, prefix="p/")}
    assert sorted(files) == ["p/000.png", "p/001.png", "p/002.png", "p/sub/x.jpg"]
    for id, file in files.items():
        assert file.read() == (folder / id.removeprefix("p/")).read_bytes()
        assert file.path == f"{path}::{id.removeprefix('p/')}"


def test_a_plain_archive_can_be_read_from_several_threads(tmp_path):
    folder = write_images(tmp_path / "images", 12)
    archive = pack(folder, tmp_path / "a.tar")
    loaded = load_all(find_images(archive), SMALL, workers=4, ahead=12, on_error=pytest.fail)
    expected = [load(file, SMALL) for file in find_images(folder)]
    assert {image.file.id: image.digest for image in loaded} == {image.file.id: image.digest for image in expected}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
def test_a_damaged_archive_is_named(tmp_path, suffix):
    folder = write_images(tmp_path / "images", 12)
    path = pack(folder, tmp_path / f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises((InputError, OSError), match=rf"a{suffix}") as raised:
        read_all(path)
    assert "\n" not in str(raised.value)


def test_a_compressed_archive_with_altered_bytes_is_named(tmp_path):
    folder = write_images(tmp_path / "images", 12)
    path = pack(folder, tmp_path / "a.tar.xz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"a\.tar\.xz: damaged archive"):
        read_all(path)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing: no such file or folder"):
        ids(tmp_path / "nothing")


def test_loading_keeps_the_order_and_names_failures(tmp_path):
    folder = write_images(tmp_path / "images", 20)
    for number in (3, 11):
        (folder / f"{number:03d}.png").write_bytes(b"")
    errors: list[ImageError] = []
    loaded = load_all(find_images(folder), SMALL, workers=4, ahead=6, on_error=errors.append)
    assert [image.file.id for image in loaded] == [f"{n:03d}.png" for n in range(20) if n not in (3, 11)]
    assert [str(error).partition(":")[0] for error in errors] == [str(folder / "003.png"), str(folder / "011.png")]


def test_loading_stops_when_the_error_handler_raises(tmp_path):
    folder = write_images(tmp_path / "images", 6)
    (folder / "002.png").write_bytes(b"")

    def refuse(error: ImageError) -> None:
        raise error

    loaded = load_all(find_images(folder), SMALL, workers=2, ahead=4, on_error=refuse)
    assert [next(loaded).file.id, next(loaded).file.id] == ["000.png", "001.png"]
    with pytest.raises(ImageError, match=r"002\.png"):
        next(loaded)
    assert list(loaded) == []


def test_no_more_is_read_ahead_than_allowed(tmp_path):
    folder = write_images(tmp_path / "images", 30)
    read: list[str] = []
    lock = threading.Lock()

    def counted(file: ImageFile) -> ImageFile:
        def read_and_count() -> bytes:
            with lock:
                read.append(file.id)
            return file.read()

        return replace(file, read=read_and_count)

    loaded = load_all(map(counted, find_images(folder)), SMALL, workers=4, ahead=5, on_error=pytest.fail)
    for consumed, _ in enumerate(loaded, start=1):
        if consumed in (1, 10):
            time.sleep(0.05)  # for the threads to go on, if they would
        assert len(read) <= consumed + 5
        if consumed == 20:
            loaded.close()
    assert len(read) <= 25


def test_a_failing_source_ends_the_threads(tmp_path):
    folder = write_images(tmp_path / "images", 2)

    def failing():
        yield from find_images(folder)
        raise InputError("the archive ends early")

    before = threading.active_count()
    with pytest.raises(InputError, match="ends early"):
        list(load_all(failing(), SMALL, workers=2, ahead=4, on_error=pytest.fail))
    assert threading.active_count() == before


def test_a_loaded_image_has_thumbnail_digest_and_size(tmp_path):
    random_image(0, (600, 300)).save(tmp_path / "wide.png")
    (file,) = find_images(tmp_path)
    image = load(file, SMALL)
    path = tmp_path / "thumbnail.jpg"
    path.write_bytes(image.thumbnail)
    with Image.open(path) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (192, 96))
    assert (image.geometry.width, image.geometry.height) == (600, 300)
    assert image.pixels.dtype == np.uint8
    random_image(0, (600, 300)).save(tmp_path / "wide.png", compress_level=0)
    assert load(file, SMALL).digest != image.digest
    assert np.array_equal(load(file, SMALL).pixels, image.pixels)


@pytest.mark.parametrize("size", [(5000, 1), (1, 3000), (1, 1)])
def test_an_image_may_be_one_pixel_high(tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "line.png")
    (file,) = find_images(tmp_path)
    image = load(file, SMALL)
    assert (image.pixels == (255, 0, 0)).all()
    assert image.thumbnail
