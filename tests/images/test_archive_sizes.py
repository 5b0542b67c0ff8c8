"""What one member of a packed archive may take, and what all of them take together."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.errors import ImageError
from spade_index.images import find_images, load, ranges, tars
from spade_index.settings import Preprocessing

from helpers.archives import file, write_tar
from helpers.tiny import png

SMALL = Preprocessing(input_size=(16, 16))
PACKINGS = ("gz", "bz2", "xz")


def heavy(edge: int) -> bytes:
    """Return an image file that packs well and does not begin with zeros."""
    return b"BM" + bytes(3 * edge * edge)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_packed_member_larger_than_is_held_is_named_and_the_others_are_read(
    tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "HELD", 100_000)
    members = (file("a.png", png(1)), file("large.bmp", heavy(2000)), file("b.png", png(2)))
    path = write_tar(tmp_path / f"a.tar.{packing}", *members, mode=f"w:{packing}")
    tracemalloc.start()
    files = {found.id: found for found in find_images(path)}
    assert tracemalloc.get_traced_memory()[1] < 11_000_000  # bzip2 unpacks into one large buffer, at most
    tracemalloc.stop()
    assert load(files["a.png"], SMALL)
    assert load(files["b.png"], SMALL)
    with pytest.raises(ImageError, match=r"large\.bmp: 12,000,002 bytes are more than is read of a packed file"):
        load(files["large.bmp"], SMALL)


@pytest.mark.parametrize("packing", PACKINGS)
def test_memory_does_not_grow_with_a_packed_archive(tmp_path: Path, packing: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.bmp")
    data = (tmp_path / "noise.bmp").read_bytes()

    def peak(count: int) -> int:
        members = [file(f"{number}.bmp", data) for number in range(count)]
        path = write_tar(tmp_path / f"{count}.tar.{packing}", *members, mode=f"w:{packing}")
        tracemalloc.start()
        assert sum(1 for _ in find_images(path)) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(200) < peak(20) + 20 * len(data)


def test_a_sample_of_a_packed_archive_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [file(f"{number}.bmp", heavy(100)) for number in range(50)]
    packed = write_tar(tmp_path / "a.tar.gz", *members, mode="w:gz")
    plain = write_tar(tmp_path / "a.tar", *members)
    monkeypatch.setattr(ranges, "HELD", 10 * len(heavy(100)))
    few, all_of_them = (ranges.spread(find_images(path), 40) for path in (packed, plain))
    assert (len(few), len(all_of_them)) == (10, 40)
    assert {found.id for found in few} < {found.id for found in all_of_them}
    order = [int(found.id.removesuffix(".bmp")) for found in all_of_them]
    assert order == sorted(order)
