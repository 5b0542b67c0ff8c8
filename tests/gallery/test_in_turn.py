"""Images that are read one after the other are what each is by itself, and so are errors in their files."""

from pathlib import Path

import pytest

from spade_index.errors import GalleryDamaged, UnknownImage
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store import shard as store_shard
from spade_index.gallery.store.shard import Shard, row_checksum
from spade_index.gallery.write.writer import GalleryWriter

from helpers.damage import ALL, shard_of


def read(gallery: Gallery, rows: list[ImageRow]) -> list[tuple[bytes, ...] | str]:
    """Return the values of images, or the error of each that cannot be read."""
    found: list[tuple[bytes, ...] | str] = []
    for row in rows:
        try:
            stored = gallery.stored(row)
        except GalleryDamaged as error:
            found.append(str(error))
        else:
            found.append((stored.pooled.tobytes(), *(level.tobytes() for level in stored.maps), stored.thumbnail))
    return found


def both(path: Path) -> list[tuple[bytes, ...] | str]:
    with Gallery(path) as gallery:
        rows = list(gallery.images())
        orders = [rows, rows[::-1], rows[::3] + rows[1::3] + rows[2::3]]
        for order in orders:
            alone = read(gallery, order)
            with gallery.in_turn():
                assert read(gallery, order) == alone
        return read(gallery, rows)


def test_images_of_several_shards(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        assert len({row.shard for row in gallery.images()}) > 1
    assert len({values[0] for values in both(gallery_path)}) == 12


def test_a_shard_is_opened_once_by_hdf5(gallery_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    columns = store_shard._columns
    monkeypatch.setattr(store_shard, "_columns", lambda file: opened.append(file) or columns(file))
    with Gallery(gallery_path) as gallery, gallery.in_turn():
        rows = list(gallery.images())
        read(gallery, rows)
        assert len(opened) == len({row.shard for row in rows})


@pytest.mark.parametrize("column", ["id", "checksum", "thumbnail"])
def test_damage_costs_the_image_that_it_is_in(gallery_path: Path, column: str) -> None:
    shard = shard_of(gallery_path, ALL[5])
    with Gallery(gallery_path) as gallery:
        whole, stored = read(gallery, list(gallery.images())), gallery.stored(gallery.image(ALL[5]))
    checksum = row_checksum(ALL[5], stored.pooled, stored.maps, stored.thumbnail)
    value = {"id": ALL[5].encode(), "checksum": checksum.to_bytes(8, "little"), "thumbnail": stored.thumbnail}[column]
    data = bytearray(shard.read_bytes())
    data[data.index(value) + len(value) // 2] ^= 1
    shard.write_bytes(data)
    found = both(gallery_path)
    assert isinstance(found[5], str)
    assert [values for place, values in enumerate(found) if place != 5] == [*whole[:5], *whole[6:]]


def test_all_is_closed_in_the_end(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        rows = list(writer.gallery.images())
        with pytest.raises(UnknownImage), writer.gallery.in_turn():
            writer.gallery.stored(writer.gallery.image("nobody"))
        read(writer.gallery, rows)
        writer.remove([row.id for row in rows[:3]])
        writer.compact()
        assert len(writer.gallery) == 9
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []


def test_a_file_that_hdf5_cannot_open_tells_so_for_each_row(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        path = shard_of(gallery_path, ALL[0])
        layout = Shard(path, gallery.settings).layout
    with open(path, "r+b") as file:
        file.write(bytes(64))
    with Gallery(gallery_path) as gallery:
        shard = Shard(path, gallery.settings, layout)
        assert shard.damaged_rows() == list(range(shard.rows))
