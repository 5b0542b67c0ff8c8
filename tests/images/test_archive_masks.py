"""Masks by a rule that lie in the archive of their images."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.images import archive_masks, find_images
from spade_index.images.loading import load_all
from spade_index.images.passed_over import PassedOver
from spade_index.images.region_rule import RegionRule
from spade_index.settings import Preprocessing

Files = dict[str, bytes]
HOW = Preprocessing(input_size=(16, 16))


def png(mask: bool = False) -> bytes:
    image = Image.new("L" if mask else "RGB", (60, 40), 0 if mask else (90, 120, 150))
    if mask:
        image.paste(1, (0, 0, 30, 40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


ARCHIVES = {"parts.zip": zipped, "parts.tar": tarred, "parts.tar.gz": tarred}


def loaded(source: Path, rule: str) -> tuple[dict[str, float | None], list[ImageError], str]:
    """Return the area of each image's region by its id, the errors, and what was passed over."""
    errors: list[ImageError] = []
    passed_over = PassedOver()
    files = find_images(source, "", passed_over, rule=RegionRule.of(rule))
    images = list(load_all(files, HOW, workers=1, ahead=4, on_error=errors.append))
    areas = {i.id: None if i.geometry.region is None else i.geometry.region.area for i in images}
    return areas, errors, str(passed_over)


@pytest.mark.parametrize(("name", "make"), ARCHIVES.items(), ids=ARCHIVES)
def test_masks_are_found_in_the_archive_of_their_images(
    tmp_path: Path, name: str, make: Callable[[Path, Files], Path]
) -> None:
    drawn = json.dumps({"polygons": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}).encode()
    files = {"x/a.png": png(), "x/masks/a.png": png(mask=True), "x/b.png": png(), "x/masks/b.png": png(mask=True)}
    areas, errors, told = loaded(make(tmp_path / name, files), "{parent}/masks/{stem}.png")
    assert (areas, errors) == ({"x/a.png": 0.5, "x/b.png": 0.5}, [])
    assert "2 regions of interest by --roi" in told
    areas, errors, _ = loaded(make(tmp_path / name, {"a.png": png(), "m/a.json": drawn}), "m/{stem}.json")
    assert areas == {"a.png": pytest.approx(0.5, abs=0.01)}


@pytest.mark.parametrize(("name", "make"), ARCHIVES.items(), ids=ARCHIVES)
def test_masks_beside_an_archive_are_found_and_missing_ones_named(
    tmp_path: Path, name: str, make: Callable[[Path, Files], Path]
) -> None:
    files = {"a.png": png(), "masks/a.png": png(mask=True), "b.png": png()}
    path = make(tmp_path / name, files)
    areas, (error,), _ = loaded(path, "masks/{stem}.png")
    assert list(areas) == ["a.png"]
    assert f"{path}::masks/b.png: is not there" in str(error)
    for folder in ("masks", "above"):
        (tmp_path / folder).mkdir()
    (tmp_path / "masks" / "b.png").write_bytes(png(mask=True))
    assert list(loaded(path, "masks/{stem}.png")[0].values()) == [0.5, 0.5]
    for stem in ("a", "b"):
        (tmp_path / "above" / f"{stem}.png").write_bytes(png(mask=True))
    areas, errors, _ = loaded(path, f"{tmp_path}/above/{{stem}}.png")  # all members are images then
    assert (set(areas), errors) == ({"a.png", "b.png", "masks/a.png"}, [])


def test_masks_that_must_be_held_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tarred(tmp_path / "parts.tar.gz", {"a.png": png(), "masks/a.png": png(mask=True)})
    monkeypatch.setattr(archive_masks, "HELD", 10)
    with pytest.raises(InputError, match=r"parts\.tar\.gz: .*unpack it first"):
        loaded(path, "masks/{stem}.png")
