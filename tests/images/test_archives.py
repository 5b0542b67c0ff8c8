"""Images in tar and zip archives: links, encryption, sizes and times that cannot be."""

import gzip
import io
import os
import pickle
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from spade_index.errors import ImageError, InputError
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images, load
from spade_index.images.passed_over import PassedOver
from spade_index.settings import Preprocessing

from helpers.archives import file, link, write_tar
from helpers.tiny import png, tiny_backbone, write_images

SMALL = Preprocessing(input_size=(16, 16))
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def by_id(source: Path) -> dict[str, ImageFile]:
    return {file.id: file for file in find_images(source)}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_zip_archive_is_read_like_its_folder(tmp_path: Path, compression: int) -> None:
    folder = write_images(tmp_path / "images", 3)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for number in range(3):
            archive.write(folder / f"{number:03d}.png", f"sub/{number:03d}.png")
    files = by_id(path)
    assert list(files) == ["sub/000.png", "sub/001.png", "sub/002.png"]
    for id, found in files.items():
        data = (folder / Path(id).name).read_bytes()
        assert pickle.loads(pickle.dumps(found)).read() == data
        assert (found.path, found.size) == (f"{path}::{id}", len(data))
        assert abs(found.mtime_ns / 1e9 - time.time()) < 2 * 86400


def test_a_zip_archive_becomes_a_gallery_in_processes(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 6)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for image in sorted(folder.iterdir()):
            archive.write(image, image.name)
    backbone = tiny_backbone()
    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        assert writer.add(find_images(tmp_path / "a.zip"), backbone).added == 6
        assert writer.add(find_images(tmp_path / "a.zip"), backbone).unchanged == 6


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", png(1))
        archive.writestr("secret.png", png(2))
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data[data.rindex(signature) + flags] |= 1
    path.write_bytes(bytes(data))
    files = by_id(path)
    assert load(files["good.png"], SMALL)
    with pytest.raises(ImageError, match=r"a\.zip::secret\.png: is encrypted"):
        load(files["secret.png"], SMALL)


@pytest.mark.parametrize("place", [40, -30], ids=["contents", "directory"])
def test_a_damaged_zip_archive_is_named(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", png(1))
    data = bytearray(path.read_bytes())
    data[place : place + 20] = b"\xaa" * 20
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"a\.zip"):
        [load(found, SMALL) for found in find_images(path)]


def test_a_file_that_is_no_zip_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"a\.zip: damaged archive"):
        list(find_images(tmp_path / "a.zip"))


def test_a_zip_member_is_never_read_beyond_what_it_claims(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("lies.png", bytes(200_000_000))
        archive.writestr("large.bmp", b"BM")
    data = bytearray(path.read_bytes())
    first, second = data.index(b"PK\1\2"), data.rindex(b"PK\1\2")
    data[first + 24 : first + 28] = (1000).to_bytes(4, "little")
    data[second + 24 : second + 28] = (4_000_000_000).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    files = by_id(path)
    for name, words in (("lies.png", "a.zip::lies.png"), ("large.bmp", "more than any image")):
        tracemalloc.start()
        with pytest.raises(ImageError, match=words):
            load(files[name], SMALL)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_links_in_a_tar_archive_are_followed(tmp_path: Path, suffix: str) -> None:
    data = png(1)
    path = write_tar(
        tmp_path / f"a.tar{suffix}",
        link("before.png", "objects/ab12"),
        file("objects/ab12", data),
        file("b/real.png", png(2)),
        link("./hard.png", "objects/ab12", tarfile.LNKTYPE),
        link("b/up.png", "../objects/ab12"),
        link("b/chain.png", "up.png"),
        link("c", "b"),
        link("through.png", "c/real.png"),
        link("gone.png", "nothing.png"),
        link("out.png", "../../etc/passwd"),
        link("root.png", "/etc/passwd"),
        link("loop.png", "pool.png"),
        link("pool.png", "loop.png"),
        link("self.png", "self.png"),
        link("readme", "objects/ab12"),
        mode=f"w:{suffix.removeprefix('.')}",
    )
    passed_over = PassedOver()
    files = {found.id: found for found in find_images(path, "p/", passed_over)}
    assert next(iter(files)) == "p/b/real.png"
    assert set(files) == {
        f"p/{name}" for name in ("b/real.png", "before.png", "hard.png", "b/up.png", "b/chain.png", "through.png")
    }
    assert files["p/through.png"].read() == png(2)
    for name in ("before.png", "hard.png", "b/up.png", "b/chain.png"):
        assert files[f"p/{name}"].read() == data
        assert files[f"p/{name}"].path == f"{path}::{name}"
    line = str(passed_over)
    assert "6 links to nothing in their archive" in line
    assert "1 folders that were read already" in line
    assert "2 with another suffix" in line


def test_links_in_a_zip_archive_are_followed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b/real.png", png(2))
        for name, target in (("link.png", "b/real.png"), ("gone.png", "nothing"), ("c", "b"), ("on.png", "c/real.png")):
            member = zipfile.ZipInfo(name)
            member.create_system, member.external_attr = 3, 0o120777 << 16
            archive.writestr(member, target)
    passed_over = PassedOver()
    files = {found.id: found for found in find_images(tmp_path / "a.zip", passed_over=passed_over)}
    assert {id: found.read() for id, found in files.items()} == dict.fromkeys(
        ("b/real.png", "link.png", "on.png"), png(2)
    )
    assert "1 links to nothing" in str(passed_over)
    assert "1 folders" in str(passed_over)


def test_a_zip_archive_of_windows_has_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("sub\\", "sub\\x.png", "__MACOSX\\x.png"):
            member = zipfile.ZipInfo("placeholder")
            member.filename, member.create_system = name, 0
            archive.writestr(member, png(1) if name.endswith(".png") else b"")
    assert list(by_id(tmp_path / "a.zip")) == ["sub/x.png"]


@pytest.mark.parametrize("mtime", ["1e20", "-1e20", "nan", "inf", "-inf", "9" * 400])
def test_a_time_that_cannot_be_does_not_matter(tmp_path: Path, mtime: str) -> None:
    path = write_tar(tmp_path / "a.tar", file("x.png", png(1), pax_headers={"mtime": mtime}))
    backbone = tiny_backbone()
    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        assert writer.add(find_images(path), backbone).added == 1
        assert writer.add(find_images(path), backbone).unchanged == 1


def sparse(name: str, size: int) -> bytes:
    """Return a tar archive with one sparse member that claims `size` bytes and has none."""
    member = tarfile.TarInfo("GNUSparseFile.0/" + name)
    member.size = 512
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(f"1\n{size}\n0\n".encode().ljust(512, b"\0")))
    return buffer.getvalue()


@pytest.mark.parametrize("size", [400_000_000, 10**12, 10**25])
def test_a_sparse_member_takes_no_memory(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(sparse("x.png", size))
    tracemalloc.start()
    (found,) = find_images(path)
    with pytest.raises(ImageError, match=r"a\.tar::x\.png"):
        load(found, SMALL)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert -1 <= found.size < 2**63


def test_zeros_in_a_compressed_archive_take_no_memory(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar.gz", file("zeros.png", bytes(200_000_000)), file("x.png", png(1)), mode="w:gz")
    tracemalloc.start()
    files = by_id(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert load(files["x.png"], SMALL)
    with pytest.raises(ImageError, match=r"zeros\.png"):
        load(files["zeros.png"], SMALL)


def test_a_file_on_disk_that_claims_terabytes_is_named(tmp_path: Path) -> None:
    with open(tmp_path / "x.png", "wb") as hollow:
        os.truncate(hollow.fileno(), 10**12)
    (found,) = find_images(tmp_path)
    with pytest.raises(ImageError, match=r"x\.png: 1,000,000,000,000 bytes are more than any image"):
        load(found, SMALL)


@pytest.mark.parametrize("alter", [lambda data: data[:700], lambda data: data[:-3000]], ids=["early", "late"])
def test_a_truncated_zip_archive_is_named(tmp_path: Path, alter: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", png(number))
    path.write_bytes(alter(path.read_bytes()))
    with pytest.raises(InputError, match=r"a\.zip: damaged archive"):
        list(find_images(path))


def test_a_tar_archive_that_ends_in_its_first_header_is_named(tmp_path: Path) -> None:
    header = b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff"  # of gzip, with more to come
    (tmp_path / "a.tar.gz").write_bytes(header)
    with pytest.raises(InputError, match=r"a\.tar\.gz: damaged archive"):
        list(find_images(tmp_path / "a.tar.gz"))


def test_headers_of_headers_are_named(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 0
    (tmp_path / "a.tar").write_bytes(5000 * header.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(InputError, match=r"a\.tar: damaged archive"):
        list(find_images(tmp_path / "a.tar"))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("before", [0, 1])
def test_a_header_that_claims_much_takes_no_memory(tmp_path: Path, kind: bytes, before: int) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 300_000_000
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as packed:
        for _ in range(before):
            packed.write(file("x.png", b"x" * 512)[0].tobuf() + b"x" * 512)
        packed.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(300):
            packed.write(bytes(1_000_000))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.tar\.gz: damaged archive"):
        list(find_images(tmp_path / "a.tar.gz"))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
