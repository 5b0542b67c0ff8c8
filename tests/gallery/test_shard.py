"""The shard format, read with plain h5py; shards that were altered; writes that fail."""

import gc
import multiprocessing
import os
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from spade_index.errors import GalleryDamaged
from spade_index.gallery.store import shard_writer
from spade_index.gallery.store.files import file_digest
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.settings import ExtractionSettings, Preprocessing

from helpers.tiny import random_images

SETTINGS = ExtractionSettings("b", "w", ("a", "b"), ((9, 17, 16), (40, 8, 7)), 13, Preprocessing())
IMAGES = random_images(SETTINGS, 7)
STORED = [image.stored for image in IMAGES]


@pytest.fixture
def shard_path(tmp_path: Path) -> Path:
    path = tmp_path / "000003.h5"
    writer = ShardWriter(tmp_path, 3, SETTINGS)
    for image in IMAGES:
        writer.append(image)
    assert len(writer) == len(IMAGES)
    assert not path.exists()
    written = writer.commit()
    assert (written.path, written.digest) == (path, file_digest(path))
    assert written.images == [image.origin for image in IMAGES]
    assert os.listdir(tmp_path) == [path.name]
    return path


def test_plain_h5py_reads_what_was_written(shard_path: Path) -> None:
    with h5py.File(shard_path) as file:
        assert file.attrs["format"] == "spade-index"
        assert file.attrs["version"] == 1
        assert ExtractionSettings.from_json(file.attrs["settings"]) == SETTINGS
        assert set(file) == {"id", "pooled", "maps", "thumbnail", "checksum"}
        assert set(file["maps"]) == {"0", "1"}
        assert file["id"].asstr()[:].tolist() == [image.origin.id for image in IMAGES]
        assert h5py.check_string_dtype(file["id"].dtype) == ("utf-8", None)
        np.testing.assert_array_equal(file["pooled"][:], np.stack([image.pooled for image in STORED]))
        for level in range(2):
            np.testing.assert_array_equal(file[f"maps/{level}"][:], np.stack([image.maps[level] for image in STORED]))
        assert [thumbnail.tobytes() for thumbnail in file["thumbnail"]] == [image.thumbnail for image in STORED]
        assert file["checksum"].shape == (len(IMAGES),)
        assert len(set(file["checksum"][:].tolist())) == len(IMAGES)


def test_layout_is_plain_byte_ranges_on_pages(shard_path: Path) -> None:
    with h5py.File(shard_path) as file:
        pooled = file["pooled"]
        assert pooled.dtype == np.dtype("<f4")
        assert pooled.chunks is None
        start = pooled.id.get_offset()
        stored = np.frombuffer(shard_path.read_bytes(), np.uint8)
        np.testing.assert_array_equal(stored[start : start + pooled.nbytes].view("<f4").reshape(pooled.shape), pooled)
        for level, (channels, height, width) in enumerate(SETTINGS.level_shapes):
            maps = file[f"maps/{level}"]
            assert maps.dtype == np.dtype("<f2")
            assert maps.shape == (len(IMAGES), height * width, channels)
            assert maps.chunks == (1, height * width, channels)
            assert maps.id.get_create_plist().get_nfilters() == 0
            for row in range(len(IMAGES)):
                chunk = maps.id.get_chunk_info_by_coord((row, 0, 0))
                assert chunk.byte_offset % 4096 == 0
                assert chunk.size == 2 * channels * height * width
                range_ = stored[chunk.byte_offset : chunk.byte_offset + chunk.size]
                np.testing.assert_array_equal(range_.view("<f2").reshape(maps.shape[1:]), maps[row])


@pytest.mark.parametrize("part", ["id", "pooled", "fine map", "coarse map", "thumbnail", "checksum"])
def test_a_flipped_byte_is_found(shard_path: Path, part: str) -> None:
    row = 4
    id, stored = IMAGES[row].origin.id, STORED[row]
    with h5py.File(shard_path) as file:
        checksum = file["checksum"][row].tobytes()
    parts = {
        "id": id.encode(),
        "pooled": stored.pooled.tobytes(),
        "fine map": stored.maps[0].tobytes(),
        "coarse map": stored.maps[1].tobytes(),
        "thumbnail": stored.thumbnail,
        "checksum": checksum,
    }
    before = file_digest(shard_path)
    data = bytearray(shard_path.read_bytes())
    assert data.count(parts[part]) == 1
    data[data.index(parts[part]) + len(parts[part]) // 2] ^= 1
    shard_path.write_bytes(data)
    assert Shard(shard_path, SETTINGS).damaged_rows() == [row]
    assert file_digest(shard_path) != before


@pytest.mark.parametrize(("number", "size"), [(0, 0), (0, 8), (5, 2**64 - 16)])
def test_a_heap_that_hdf5_would_read_for_ever_is_named(shard_path: Path, number: int, size: int) -> None:
    data = bytearray(shard_path.read_bytes())
    place = data.index(STORED[4].thumbnail)
    data[place - 16 : place] = number.to_bytes(8, "little") + size.to_bytes(8, "little")
    shard_path.write_bytes(data)
    shard = Shard(shard_path, SETTINGS)
    with pytest.raises(GalleryDamaged, match=f"{shard_path}: damaged .a heap"):
        shard.thumbnail(4)
    assert 4 in shard.damaged_rows()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_named(shard_path: Path, share: float) -> None:
    os.truncate(shard_path, int(share * shard_path.stat().st_size))
    with pytest.raises(GalleryDamaged, match=str(shard_path)) as raised:
        Shard(shard_path, SETTINGS)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GalleryDamaged, match=str(tmp_path / "000009.h5")):
        Shard(tmp_path / "000009.h5", SETTINGS)


def test_a_file_that_is_not_a_shard_is_named(shard_path: Path) -> None:
    shard_path.unlink()
    with h5py.File(shard_path, "w") as file:
        file["something"] = 1
    with pytest.raises(GalleryDamaged, match=str(shard_path)):
        Shard(shard_path, SETTINGS)


def test_a_shard_of_other_settings_is_refused(shard_path: Path) -> None:
    other = ExtractionSettings("b", "other weights", ("a", "b"), SETTINGS.level_shapes, 13, Preprocessing())
    shard = Shard(shard_path, other)
    maps = [np.empty((height * width, channels), "<f2") for channels, height, width in other.level_shapes]
    for read in (shard.pooled, lambda: shard.read_maps(0, maps)):
        with pytest.raises(GalleryDamaged, match=f"{shard_path}.*other settings"):
            read()


def write_within(folder: Path, limit: int) -> None:
    """Fail to write a shard, as no file may be longer than a limit. Runs in a process where nobody else writes."""

    def write(writer: ShardWriter) -> None:
        for image in IMAGES:
            writer.append(image)
        writer.commit()

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    writer = ShardWriter(folder, 1, SETTINGS)
    with pytest.raises(OSError, match="File too large"):
        write(writer)
    writer.abandon()
    del writer
    gc.collect()


@pytest.mark.parametrize("limit", [0, 50, 96, 1000, 2100, 4096, 5000, 9000])
def test_a_shard_that_does_not_fit(tmp_path: Path, limit: int, capfd: pytest.CaptureFixture[str]) -> None:
    """It raises one error, and HDF5 prints nothing."""
    process = multiprocessing.get_context("spawn").Process(target=write_within, args=(tmp_path, limit))
    process.start()
    process.join()
    assert capfd.readouterr() == ("", "")
    assert process.exitcode == 0
    assert list(tmp_path.iterdir()) == []


def test_abandon_leaves_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 1, SETTINGS)
    writer.append(IMAGES[0])
    writer.abandon()
    assert os.listdir(tmp_path) == []


def test_an_interrupted_append_does_not_damage_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "000001.h5"
    writer = ShardWriter(tmp_path, 1, SETTINGS)
    writer.append(IMAGES[0])

    def interrupt(*arguments: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "row_checksum", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.append(IMAGES[1])
    writer.commit()
    shard = Shard(path, SETTINGS)
    assert shard.rows == 1
    assert shard.damaged_rows() == []
