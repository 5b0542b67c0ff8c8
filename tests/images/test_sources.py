"""What is passed over in folders, lists and archives is counted by kind; a file that is named itself is taken."""

import os
import pickle
import socket
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import InputError
from spade_index.images import find_images, load
from spade_index.images.files import read_any
from spade_index.images.lists import read_list
from spade_index.images.marks import OwnOutput
from spade_index.images.passed_over import PassedOver
from spade_index.images.region_files import read_region
from spade_index.settings import Preprocessing
from spade_index.views.files import encode
from spade_index.views.maps import half_tiff

from helpers.tiny import png, random_image, write_images

SMALL = Preprocessing(input_size=(16, 16))


def found(source: Path, *exclude: str) -> tuple[list[str], str]:
    """Return the ids of a source's images, and the line on what was passed over."""
    passed_over = PassedOver(exclude)
    ids = [file.id for file in find_images(source, passed_over=passed_over)]
    return ids, str(passed_over).removesuffix(" (--show-skipped names them)") if passed_over else ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 2)


def put(path: Path, data: bytes = b"anything") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_other_suffixes_are_counted(folder: Path) -> None:
    for name in ("a.gif2", "b.GIF2", "c.npy", "README"):
        put(folder / name)
    assert found(folder) == (["000.png", "001.png"], "passed over: 4 with another suffix (.gif2 2, .npy 1, none 1)")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("@eaDir/000.png/SYNOPHOTO_THUMB_M.jpg", "left by the system"),
        ("__MACOSX/x.png", "left by the system"),
        ("lost+found/x.png", "left by the system"),
        ("Thumbs.db", "left by the system"),
        ("FOUND.000/x.png", "left by the system"),
        ("~$x.png", "left by the system"),
        (".ipynb_checkpoints/000-checkpoint.png", "hidden"),
        ("._000.png", "hidden"),
        (".hidden.jpg", "hidden"),
        (".thumbnails/x.png", "hidden"),
    ],
)
def test_debris_is_left_out(folder: Path, name: str, kind: str) -> None:
    put(folder / name, png(5))
    assert found(folder) == (["000.png", "001.png"], f"passed over: 1 {kind}")
    for pack in (packed_as_tar, packed_as_zip):
        ids, line = found(pack(folder))
        assert (sorted(ids), line) == (["000.png", "001.png"], f"passed over: 1 {kind}")
    assert found(folder / name)[0] == [Path(name).name]  # which was named itself


def test_each_name_is_told_on_request(folder: Path) -> None:
    put(folder / "sub" / "notes.md")
    put(folder / ".x.png")
    told: list[str] = []
    passed_over = PassedOver(show=told.append)
    assert len(list(find_images(folder, passed_over=passed_over))) == 2
    assert told == [
        f"passed over {folder}/.x.png: hidden",
        f"passed over {folder}/sub/notes.md: with another suffix",
    ]
    assert str(passed_over) == "passed over: 1 hidden, 1 with another suffix (.md 1)"


def test_an_unreadable_folder_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "locked").mkdir()
    scan = os.scandir

    def refusing(path: str) -> object:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"images/locked: cannot be read \(Permission denied\)"):
        list(find_images(folder))
    assert found(folder, "locked") == (["000.png", "001.png"], "passed over: 1 excluded")


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*_mask.png", ["a/000.png", "b/000.png"]),
        ("a", ["b/000.png"]),
        ("a/", ["b/000.png"]),
        ("a/*", ["b/000.png"]),
        ("b/000.png", ["a/000.png", "a/000_mask.png"]),
        ("./b/000.png", ["a/000.png", "a/000_mask.png"]),
        ("**/000.png", ["a/000_mask.png"]),
        ("[ab]", []),
    ],
)
@pytest.mark.parametrize("pack", [None, "tar", "zip"])
def test_excluded_paths_are_left_out(tmp_path: Path, pattern: str, left: list[str], pack: str | None) -> None:
    folder = tmp_path / "images"
    for number, name in enumerate(("a/000.png", "a/000_mask.png", "b/000.png")):
        put(folder / name, png(number))
    source = {None: lambda path: path, "tar": packed_as_tar, "zip": packed_as_zip}[pack](folder)
    ids, line = found(source, pattern)
    assert sorted(ids) == left
    assert "excluded" in line


def test_patterns_that_match_nothing_are_said(folder: Path) -> None:
    put(folder / ".git" / "x.png")
    ids, line = found(folder, "*_msk.png", "001*", "00[1]*", ".git", "old/x y")
    assert ids == ["000.png"]
    # A name that two patterns match, or that is hidden anyway, counts for each of its patterns.
    assert line.endswith("; --exclude '*_msk.png' matched nothing; --exclude 'old/x y' matched nothing")
    assert line.count("matched nothing") == 2
    assert found(folder / "000.png", "x") == (["000.png"], "--exclude x matched nothing")


def test_excluded_paths_may_be_given_as_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder / "found" / "x.png", png(3))
    monkeypatch.chdir(folder.parent)
    for source, pattern in (
        (Path("images"), "images/found"),
        (Path("images"), "./images/found/"),
        (folder, f"{folder}/found"),
    ):
        assert found(source, pattern)[0] == ["000.png", "001.png"]
    assert found(Path("images/000.png"), "000*") == ([], "passed over: 1 excluded")


def test_pipes_and_sockets_are_counted(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.png"))
        assert found(folder) == (["000.png", "001.png"], "passed over: 2 pipes, sockets or devices")


def test_what_may_never_begin_or_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "polygons.json")
    (folder / "images.txt").symlink_to("/dev/zero")
    for name in ("/dev/zero", folder / "pipe.png", folder / "images.txt"):
        with pytest.raises(InputError, match="a pipe or a device"):
            found(Path(name))
    with pytest.raises(InputError, match=r"polygons\.json: cannot be read \(a pipe or a device"):
        read_region(folder / "polygons.json")
    for name in ("pipe.png", "images.txt"):
        with pytest.raises(OSError, match="a pipe or a device"):
            read_any(str(folder / name))
    monkeypatch.setattr("spade_index.images.lists.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="over the limit"):
        read_list("/dev/zero")


def test_folders_that_links_lead_to_again_are_counted(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to(folder)
    assert found(folder) == (["000.png", "001.png"], "passed over: 1 folders that were read already")


def test_a_link_to_itself_is_like_a_link_to_nothing(folder: Path) -> None:
    (folder / "self").symlink_to("self")
    (folder / "one").symlink_to("other")
    (folder / "other").symlink_to("one")
    images, said = found(folder)
    assert images == ["000.png", "001.png"]
    assert said == "passed over: 3 with another suffix (none 3)"


def drawn(file_format: str) -> bytes:
    """Return a picture as this package draws it."""
    return encode(random_image(7, (300, 200)), file_format)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_our_own_pictures_are_known_when_they_are_read(folder: Path, file_format: str) -> None:
    suffix = {"PNG": ".png", "JPEG": ".jpg"}[file_format]
    put(folder / f"drawn{suffix}", drawn(file_format))
    for source in (folder, packed_as_tar(folder), packed_as_tar(folder, ".gz"), packed_as_zip(folder)):
        files = {file.id: file for file in find_images(source)}
        assert load(files["000.png"], SMALL).pixels.shape == (16, 16, 3)
        with pytest.raises(OwnOutput, match="drawn by spade-index") as raised:
            load(files[f"drawn{suffix}"], SMALL)
        again = pickle.loads(pickle.dumps(raised.value))
        assert (str(again), again.path) == (str(raised.value), files[f"drawn{suffix}"].path)


def test_an_own_picture_that_is_named_is_taken_and_said(folder: Path) -> None:
    path = put(folder / "drawn.png", drawn("PNG"))
    listing = put(folder.parent / "some.txt", b"images/drawn.png\nimages/000.png\n")
    for source in (path, listing):
        passed_over = PassedOver()
        first, *_ = find_images(source, passed_over=passed_over)
        assert load(first, SMALL).file.id == first.id
        assert passed_over.drawn is not None
        assert "drawn.png" in passed_over.drawn
        assert "named: 1" in passed_over.drawn


def test_folders_that_a_query_wrote_are_left_out(folder: Path) -> None:
    for name in ("heatmaps/000.png.png", "score_maps/000.png.npy", "masks/000.png.mask.png"):
        put(folder / "found" / name, png(4))  # of a version without marks
    put(folder / "masks" / "own.png", png(6))
    ids, line = found(folder)
    assert ids == ["000.png", "001.png", "masks/own.png"]
    assert line == "passed over: 3 drawn by spade-index"


def test_galleries_are_left_out(folder: Path) -> None:
    for name in ("catalog.sqlite", "shards/1.h5", "odd.png"):
        put(folder / "gallery" / name)
    assert found(folder) == (["000.png", "001.png"], "passed over: 1 galleries of spade-index")
    assert found(folder / "gallery")[0] == ["odd.png"]


def test_folders_may_be_deep(folder: Path) -> None:
    deep = os.open(folder, os.O_RDONLY)
    for _ in range(1100):  # more than Python calls within each other
        os.mkdir("d", dir_fd=deep)
        deep = os.open("d", os.O_RDONLY, dir_fd=(above := deep))
        os.close(above)
    with open(os.open("x.png", os.O_WRONLY | os.O_CREAT, dir_fd=deep), "wb") as file:
        file.write(png(1))
    os.close(deep)
    ids, _ = found(folder)
    subprocess.run(["rm", "-r", str(folder / "d")], check=True)  # neither can pytest remove it
    assert ids[-1] == "d/" * 1100 + "x.png"


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(InputError, match="empty"):
        list(find_images(""))


def test_maps_for_servers_are_known(folder: Path) -> None:
    put(folder / "map.tiff", half_tiff(np.zeros((4, 5), np.float32)))
    files = {file.id: file for file in find_images(folder)}
    with pytest.raises(OwnOutput):
        load(files["map.tiff"], SMALL)


def test_the_search_of_many_files_stays_fast(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.png").touch()
    started = time.process_time()
    assert sum(1 for _ in find_images(tmp_path)) == 3000
    assert time.process_time() - started < 0.5  # 0.06 s alone on a machine; opening each file doubles it


def packed_as_tar(folder: Path, suffix: str = "") -> Path:
    path = folder.parent / f"packed.tar{suffix}"
    with tarfile.open(path, f"w:{suffix.removeprefix('.')}") as archive:
        archive.add(folder, ".")
    return path


def packed_as_zip(folder: Path) -> Path:
    path = folder.parent / "packed.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path
