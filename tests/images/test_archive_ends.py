"""Tar archives that end early or go on after their end, damaged in the middle, and names that are there twice."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.images import ImageFile, find_images
from spade_index.images.passed_over import PassedOver

from helpers.tiny import png

BLOCK = tarfile.BLOCKSIZE


def archive_of(*names: str, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = len(png(number))
            archive.addfile(member, io.BytesIO(png(number)))
    return buffer.getvalue()


def header(archive: bytes, name: str) -> int:
    return archive.index(name.encode())


@pytest.mark.parametrize(
    ("more", "there"),
    [(0, 1), (100, 1), (BLOCK + 100, 2)],
    ids=["before a header", "in a header", "in contents"],
)
def test_a_tar_archive_that_ends_early_is_named(tmp_path: Path, more: int, there: int) -> None:
    whole = archive_of("a.png", "b.png", "c.png")
    path = tmp_path / "a.tar"
    path.write_bytes(whole[: header(whole, "b.png") + more])
    found: list[ImageFile] = []
    with pytest.raises(InputError, match=r"a\.tar: damaged archive"):
        found.extend(find_images(path))
    assert [file.id for file in found] == ["a.png", "b.png"][:there]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_damaged_header_within_a_tar_archive_is_named(tmp_path: Path, mode: str) -> None:
    damaged = bytearray(archive_of("a.png", "b.png", "c.png"))
    damaged[header(bytes(damaged), "b.png") + 2] ^= 1
    path = tmp_path / "a.tar"
    if mode == "w:gz":
        path.write_bytes(gzip.compress(bytes(damaged)))
    else:
        path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.tar: damaged archive .*at byte"):
        list(find_images(path))


def test_what_follows_the_end_of_a_tar_archive_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(archive_of("a.png") + archive_of("b.png"))
    passed_over = PassedOver()
    assert [file.id for file in find_images(path, "", passed_over)] == ["a.png"]
    assert "archives joined to the end of another" in str(passed_over)
    path.write_bytes(archive_of("a.png") + bytes(50 * BLOCK))
    passed_over = PassedOver()
    assert [file.id for file in find_images(path, "", passed_over)] == ["a.png"]
    assert not passed_over


def test_members_of_one_name_keep_their_own_contents(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive_of("x.png", "x.png"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.png", png(0))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.png", png(1))
    for name in ("a.tar", "a.zip"):
        assert [file.read() for file in find_images(tmp_path / name)] == [png(0), png(1)]


@pytest.mark.parametrize("name", ["a.7z", "a.RAR", "a.tar.zst"])
def test_an_archive_that_is_not_read_is_no_image(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"an archive")
    with pytest.raises(InputError, match="archives of this kind are not read: unpack it"):
        list(find_images(tmp_path / name))
