"""The pages of a TIFF are images of their own."""

import io
import pickle
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from spade_index.gallery import Gallery
from spade_index.images import decode, find_images, load
from spade_index.images.pages import MOST_ENTRIES, page_offsets
from spade_index.method.originals import originals
from spade_index.settings import Preprocessing

from helpers.cli_runs import BACKBONE, objects, run
from helpers.tiny import build, random_image, tiny_backbone
from helpers.uploads import encoded

PAGES = [np.asarray(random_image(seed)) for seed in range(4)]


def stack(count: int = 3, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as writer:
        for page in PAGES[:count]:
            writer.write(page, photometric="rgb", metadata=None)
    return buffer.getvalue()


def offsets(data: bytes) -> list[int]:
    return page_offsets(lambda offset, size: data[offset : offset + size])


@pytest.fixture(params=["folder", "file", "list", "tar", "tar.gz", "zip"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "stack.tif").write_bytes(stack())
    path = tmp_path / f"source.{request.param}"
    if request.param == "folder":
        return folder
    if request.param == "file":
        return folder / "stack.tif"
    if request.param == "list":
        path = tmp_path / "list.txt"
        path.write_text(f"{folder}/stack.tif\n")
    elif request.param == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(folder / "stack.tif", "stack.tif")
    else:
        with tarfile.open(path, "w:gz" if request.param == "tar.gz" else "w") as archive:
            archive.add(folder / "stack.tif", "stack.tif")
    return path


def test_pages_are_found_and_read_wherever_the_file_lies(source):
    files = list(find_images(source, prefix="p/"))
    names = [file.id.rpartition("/")[2] for file in files]
    assert names == ["stack.tif", "stack.tif#2", "stack.tif#3"]
    assert [file.path.rpartition("stack.tif")[2] for file in files] == ["", "#2", "#3"]
    for file, page in zip(files, PAGES, strict=False):
        again = pickle.loads(pickle.dumps(file))
        assert np.array_equal(decode(again.read(), file.path), page)
    digests = {load(file, Preprocessing(input_size=(16, 16))).digest for file in files}
    assert len(digests) == 3
    assert len(list(find_images(source, pages=False))) == 1


@pytest.mark.parametrize("options", [{"byteorder": ">"}, {"bigtiff": True}])
def test_any_kind_of_tiff(tmp_path, options):
    (tmp_path / "x.tiff").write_bytes(stack(**options))
    found = [np.asarray(decode(file.read(), file.id)) for file in find_images(tmp_path)]
    assert all(np.array_equal(one, page) for one, page in zip(found, PAGES[:3], strict=True))


def test_the_first_page_has_the_bytes_of_the_file(tmp_path):
    (tmp_path / "x.tif").write_bytes(stack())
    assert next(find_images(tmp_path)).read() == stack()


def test_smaller_versions_are_no_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for page in PAGES[:2]:
            writer.write(page, photometric="rgb", metadata=None)
            writer.write(page[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
            writer.write(page[..., 0] > 99, metadata=None, subfiletype=4, photometric="minisblack")
    found = [np.asarray(decode(file.read(), file.id)) for file in find_images(tmp_path)]
    assert len(found) == 2
    assert np.array_equal(found[1], PAGES[1])


def test_a_file_of_one_page_and_other_files_are_one_image(tmp_path):
    (tmp_path / "one.tif").write_bytes(encoded(random_image(0), "TIFF"))
    (tmp_path / "other.tif").write_bytes(encoded(random_image(0), "PNG"))
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "short.tif").write_bytes(stack()[:6])
    assert [file.id for file in find_images(tmp_path)] == ["empty.tif", "one.tif", "other.tif", "short.tif"]


def test_pages_in_a_circle_and_beyond_the_end_of_the_file_end():
    data = bytearray(stack())
    start, _, last = offsets(bytes(data))
    (entries,) = struct.unpack_from("<H", data, last)
    struct.pack_into("<I", data, last + 2 + 12 * entries, start)
    assert len(offsets(bytes(data))) == 3
    struct.pack_into("<I", data, last + 2 + 12 * entries, 1 << 31)
    assert len(offsets(bytes(data))) == 3


def test_pages_are_built_queried_and_drawn_like_files(tmp_path):
    (tmp_path / "stack.tif").write_bytes(stack(4))
    run("build", tmp_path / "stack.tif", tmp_path / "gallery", *BACKBONE, "--no-tune")
    assert run("list", tmp_path / "gallery").stdout.splitlines() == [
        "stack.tif",
        *(f"stack.tif#{n}" for n in (2, 3, 4)),
    ]
    found = objects(run("query", tmp_path / "gallery", tmp_path / "stack.tif", "--json", "--out", tmp_path / "out"))
    assert [one["neighbours"][0]["id"] for one in found] == [one["image"] for one in found]
    assert [one["neighbours"][0]["distance"] for one in found] == [0] * 4
    assert [Image.open(one["heatmap"]).size for one in found] == [(40, 36)] * 4
    assert (
        "4 already there" in run("build", tmp_path / "stack.tif", tmp_path / "gallery", *BACKBONE, "--no-tune").stdout
    )


def test_the_originals_of_pages_are_found(source, tmp_path):
    build(tmp_path / "gallery", source, tiny_backbone())
    with Gallery(tmp_path / "gallery") as gallery:
        found = {row.id: np.asarray(image) for row, image in originals(list(gallery.images()))}
    assert len(found) == 3
    assert all(np.array_equal(image, page) for image, page in zip(found.values(), PAGES, strict=False))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_frames_that_are_not_read_are_said(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.new("RGB", (20, 20), colour) for colour in ("red", "blue"))
    first.save(tmp_path / f"several.{suffix}", save_all=True, append_images=[second])
    first.save(tmp_path / f"one.{suffix}")
    one, several = (load(file, Preprocessing(input_size=(16, 16))) for file in find_images(tmp_path))
    assert one.notice is None
    assert several.notice is not None
    assert "the first is read" in several.notice
    assert f"several.{suffix}: " in several.notice
    assert several.pixels.mean((0, 1)).argmax() == 0


def test_directories_that_lie_over_each_other_end_the_pages() -> None:
    """10,000 directories of 1,000 entries in 172 kB."""
    directories, step, entries = 10_000, 16, 1000
    data = bytearray(8 + step * directories + 2 + 12 * entries + 4)
    struct.pack_into("<2sHI", data, 0, b"II", 42, 8)
    for begin in range(8, 8 + step * directories, step):
        struct.pack_into("<H", data, begin, entries)
        struct.pack_into("<I", data, begin + 2 + 12 * entries, begin + step)
    begun = time.perf_counter()
    assert len(page_offsets(lambda offset, size: bytes(data[offset : offset + size]))) == MOST_ENTRIES // entries
    assert time.perf_counter() - begun < 2
