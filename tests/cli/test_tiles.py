"""A gallery of tiles on the command line, from `build --tile` to `restore`."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.cli.progress import Progress
from spade_index.cli.tile_options import TileOptions
from spade_index.features.backbone import Backbone
from spade_index.gallery.store.codecs import NAMES
from spade_index.gallery.store.storage import MapStorage
from spade_index.images import find_images

from helpers.cli_runs import BACKBONE, objects, refused, run

SIZE = (150, 110)


def write_pictures(folder: Path, count: int, size: tuple[int, int] = SIZE, start: int = 0) -> Path:
    """Write pictures of a woven texture, larger than the tiles."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(start + number)
        y, x = np.mgrid[: size[1], : size[0]] + rng.integers(0, 9, (2, 1, 1))
        woven = 120 + 40 * np.sin(x / 2) * np.sin(y / 3) + rng.normal(0, 6, (size[1], size[0]))
        Image.fromarray(woven.clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("tiles") / "pictures", 3)


@pytest.fixture
def tiled(pictures: Path, tmp_path: Path) -> Path:
    run("build", pictures, tmp_path / "tiled", *BACKBONE, "--tile", 64, "--no-tune")
    return tmp_path / "tiled"


def count(gallery: Path) -> int:
    return json.loads(run("info", gallery, "--json").stdout)["images"]


def test_building_is_told_in_pictures_and_tiles(pictures: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "tiled"
    built = run("build", pictures, gallery, *BACKBONE, "--tile", 64, "--overlap", 0.5, "--no-tune")
    tiles = count(gallery)
    assert tiles > 3 * 6
    assert built.stdout.splitlines()[-1] == f"3 added as {tiles} tiles; {tiles} tiles at snapshot 1"
    described = run("info", gallery).stdout
    assert f"{tiles} tiles of 3 pictures" in described
    assert "of tiles of 64 pixels, overlap 0.5" in described
    assert json.loads(run("info", gallery, "--json").stdout)["pictures"] == 3
    again = run("build", pictures, gallery, *BACKBONE, "--no-tune")
    assert again.stdout == f"0 added, 3 already there; {tiles} tiles at snapshot 1\n"
    assert "with --tile 64, not 65" in refused("build", pictures, gallery, "--tile", 65)
    assert "with --overlap 0.5, not with --overlap 0.25" in refused("build", pictures, gallery, "--overlap", 0.25)


@pytest.mark.parametrize(("maps", "codec"), [(None, "int8"), *[(name, name) for name in NAMES]])
def test_the_size_that_is_told_before_a_build_is_that_of_the_codec(
    maps: str | None, codec: str, pictures: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Progress, "note", staticmethod(told.append))
    settings = replace(backbone.settings, preprocessing=replace(backbone.settings.preprocessing, tile=16, resize=None))
    TileOptions.say_size(find_images(pictures), settings, maps)
    (line,) = told
    tiles, megabytes = re.fullmatch(
        r"0\.png of 150x110 pixels is ([\d,]+) tiles, which take ([\d.]+) MB", line
    ).groups()
    expected = (
        int(tiles.replace(",", "")) * (MapStorage.named(codec).map_bytes(settings) + 4 * settings.pooled_dim) / 1e6
    )
    assert float(megabytes) == pytest.approx(expected, abs=0.051)


def test_a_gallery_of_whole_images_takes_no_tiles(pictures: Path, tmp_path: Path) -> None:
    run("build", pictures, tmp_path / "whole", *BACKBONE, "--no-tune")
    assert "was built without --tile, not 64" in refused("build", pictures, tmp_path / "whole", "--tile", 64)
    assert list(map(str.strip, run("list", tmp_path / "whole").stdout.splitlines())) == ["0.png", "1.png", "2.png"]


def test_pictures_that_are_shrunk_so_much_that_defects_are_lost_are_named(pictures: Path, tmp_path: Path) -> None:
    large = write_pictures(tmp_path / "large", 1, (512, 300))
    said = run("build", large, tmp_path / "shrunk", *BACKBONE, "--no-tune").stderr
    assert said == (
        "0.png of 512x300 pixels is shrunk 8 times, so defects of about 8 pixels are lost: --tile 64 keeps them\n"
    )
    assert run("build", large, tmp_path / "shrunk", *BACKBONE, "--no-tune").stderr == ""
    assert run("build", large, tmp_path / "cut", *BACKBONE, "--tile", 64, "--overlap", 0, "--no-tune").stderr == ""
    assert run("build", pictures, tmp_path / "whole", *BACKBONE, "--no-tune").stderr == ""


@pytest.mark.parametrize(
    "options",
    [
        ["--overlap", "0.5"],
        ["--tile", "8"],
        ["--tile", "64", "--overlap", "0.9"],
        ["--tile", "64", "--overlap", "nan"],
        ["--tile", "64", "--resize", "80"],
        ["--tile", "64", "--preset", "paper"],
    ],
)
def test_options_that_cannot_be_are_usage_errors(pictures: Path, tmp_path: Path, options: list[str]) -> None:
    run("build", pictures, tmp_path / "gallery", *BACKBONE, *options, status=2)
    assert not (tmp_path / "gallery").exists()


def test_pictures_are_listed_removed_and_restored(tiled: Path, pictures: Path) -> None:
    tiles = count(tiled) // 3
    assert run("list", tiled).stdout == "0.png\n1.png\n2.png\n"
    assert run("list", tiled, "--long").stdout.splitlines()[0].startswith(f"0.png\t150x110\t{tiles} tiles\t1\t/")
    described = objects(run("list", tiled, "--json"))[0]
    assert (described["id"], described["tiles"], described["width"]) == ("0.png", tiles, 150)
    ids = run("list", tiled, "--tiles").stdout.splitlines()
    assert len(ids) == 3 * tiles
    assert objects(run("list", tiled, "--tiles", "--json"))[1]["id"] == ids[1]

    removed = run("remove", tiled, "1.png", ids[0]).stdout
    assert removed == (
        f"2 ({tiles + 1} tiles) removed (`restore` takes them back, until `compact`); "
        f"{2 * tiles - 1} tiles at snapshot 2\n"
    )
    assert run("list", tiled).stdout == "0.png\n2.png\n"
    assert run("list", tiled, "--removed", "--tiles").stdout.splitlines() == [ids[0], *ids[tiles : 2 * tiles]]
    kept = run("add", tiled, pictures, *BACKBONE).stdout
    assert kept.startswith("0 added, 2 already there, 1 were removed before and stay out (--again takes them)")
    assert "no image '1.png'" in refused("remove", tiled, "1.png")
    restored = run("restore", tiled, ids[0], "1.png").stdout
    assert restored == f"2 ({tiles + 1} tiles) restored; {3 * tiles} tiles at snapshot 3\n"
    assert "is there" in refused("restore", tiled, "1.png")
    run("remove", tiled, "1.png")
    taken = run("add", tiled, pictures, *BACKBONE, "--again").stdout
    assert taken.startswith(f"1 added as {tiles} tiles, 2 already there;")


def test_a_changed_picture_is_kept_or_replaced_as_a_whole(tiled: Path, tmp_path: Path) -> None:
    before = count(tiled)
    other = write_pictures(tmp_path / "other", 1, (60, 50), start=9)
    kept = run("add", tiled, other, *BACKBONE)
    assert "kept 0.png as it was" in kept.stderr
    assert count(tiled) == before
    replaced = run("add", tiled, other, *BACKBONE, "--replace").stdout
    assert replaced.startswith("1 added as 1 tile, 1 of them replaced;")
    assert count(tiled) == before // 3 * 2 + 1
    assert run("list", tiled, "--removed").stdout == ""


@pytest.mark.usefixtures("quick_tuning")
def test_a_few_pictures_are_tuned_to_settings_that_need_no_calibration(pictures: Path, tmp_path: Path) -> None:
    """They are too few to calibrate on, whatever their number of tiles."""
    built = run("build", pictures, tmp_path / "tiled", *BACKBONE, "--tile", 64)
    assert " 0 of the neighbours' maps subtracted" in built.stdout
    (answer,) = objects(run("query", tmp_path / "tiled", pictures / "0.png", "--json"))
    assert answer["image"] == "0.png"
    assert answer["p_value"] is None
    again = run("build", pictures, tmp_path / "tiled", *BACKBONE, "--tile", 64)
    assert "tuned" not in again.stdout
    assert "3 pictures are too few to calibrate on" in refused("calibrate", tmp_path / "tiled")


@pytest.mark.usefixtures("quick_tuning")
def test_pictures_are_tuned_and_calibrated_at_the_end_of_a_build(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 10, (100, 70))
    built = run("build", pictures, tmp_path / "tiled", *BACKBONE, "--tile", 64)
    assert "\ntuned: " in built.stdout
    (answer,) = objects(run("query", tmp_path / "tiled", pictures / "3.png", "--json"))
    assert answer["p_value"] is not None
