"""The range of pixels is found by `build`, recorded in the gallery, and the same for all that comes later."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.gallery import Gallery
from spade_index.method.originals import originals

from helpers.cli_runs import BACKBONE, copied, normal, objects, refused, run, write_normal
from helpers.deep import scaled, write

FROZEN = Path(__file__).parents[1] / "data" / "format_1"
PLAIN = [*BACKBONE, "--no-tune"]


def deep(folder: Path, to: Path, bits: int, suffix: str, shift: bool = False) -> Path:
    """Write the images of a folder with more bits; return the new folder."""
    for path in sorted(folder.iterdir()):
        pixels = np.asarray(Image.open(path))
        values = pixels.astype(np.uint16) << (bits - 8) if shift else scaled(pixels, bits)
        write(to / f"{path.stem}{suffix}", values)
    return to


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Normal images, and two queries, one of them with a hole."""
    root = tmp_path_factory.mktemp("pixels")
    good, queries = write_normal(root / "normal", 6), write_normal(root / "queries", 2, start=90)
    image = Image.open(queries / "001.png")
    image.paste("black", (30, 30, 50, 50))
    image.save(queries / "001.png")
    return good, queries


@pytest.fixture(scope="session")
def answers(sources: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The answers to the queries in 8 bits."""
    gallery = tmp_path_factory.mktemp("eight") / "gallery"
    assert "bits" not in run("build", sources[0], gallery, *PLAIN).stderr
    return objects(run("query", gallery, sources[1], "--json", "--workers", 1))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_scores_of_more_bits_equal_those_of_8(sources, answers, tmp_path, bits, suffix):
    built = run("build", deep(sources[0], tmp_path / "normal", bits, suffix), tmp_path / "gallery", *PLAIN)
    assert f"{bits} bits" in built.stderr
    assert len(built.stderr.splitlines()) == 1
    queries = deep(sources[1], tmp_path / "queries", bits, suffix)
    result = run("query", tmp_path / "gallery", queries, "--json", "--workers", 1)
    assert [one["scores"] for one in objects(result)] == [one["scores"] for one in answers]
    with Gallery(tmp_path / "gallery") as gallery:
        assert gallery.settings.preprocessing.bits == bits


def test_scores_of_shifted_values_are_equal(sources, answers, tmp_path):
    good = deep(sources[0], tmp_path / "normal", 12, ".tif", shift=True)
    run("build", good, tmp_path / "gallery", *PLAIN, "--bits", 12)
    queries = deep(sources[1], tmp_path / "queries", 12, ".tif", shift=True)
    found = objects(run("query", tmp_path / "gallery", queries, "--json", "--workers", 1))
    for one, other in zip(found, answers, strict=True):
        assert one["scores"] == other["scores"]


def test_queries_and_additions_beyond_the_gallerys_range_are_named(sources, tmp_path):
    run("build", deep(sources[0], tmp_path / "normal", 10, ".png"), tmp_path / "gallery", *PLAIN)
    more = deep(sources[1], tmp_path / "more", 12, ".png")
    result = run("query", tmp_path / "gallery", more, status=1)
    lines = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [f"skipped {more}/00{n}.png" for n in (0, 1)]
    assert all("--bits 12" in line for line in lines[:2])
    assert "--bits 12" in run("add", tmp_path / "gallery", more).stderr


def test_a_query_of_far_fewer_bits_is_named_and_scored(sources, tmp_path):
    run("build", deep(sources[0], tmp_path / "normal", 16, ".png"), tmp_path / "gallery", *PLAIN)
    dark = deep(sources[1], tmp_path / "dark", 12, ".png")
    result = run("query", tmp_path / "gallery", dark, "--json", "--workers", 1)
    assert len(objects(result)) == 2
    lines = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(dark / f"00{n}.png") for n in (0, 1)]
    assert f"{dark}/000.png: " in run("add", tmp_path / "gallery", dark, "--prefix", "x/").stderr


def test_a_gallery_of_8_bits_names_an_image_of_more(sources, tmp_path):
    run("build", sources[0], tmp_path / "gallery", *PLAIN)
    (query,) = [write(tmp_path / "x.png", np.full((70, 90), 4095, np.uint16))]
    assert "--bits 12" in run("query", tmp_path / "gallery", query, status=1).stderr


def test_a_gallery_built_before_there_were_bits_reads_the_upper_eight(tmp_path):
    gallery = copied(FROZEN, tmp_path / "gallery")
    with Gallery(gallery) as opened:
        assert opened.catalog.meta("settings") == opened.settings.to_json()
    wide = np.asarray(normal(0)).astype(np.uint16) << 8 | 0xFF
    write(tmp_path / "wide.png", wide)
    normal(0).save(tmp_path / "eight.png")
    wide, eight = (objects(run("query", gallery, tmp_path / name, "--json"))[0] for name in ("wide.png", "eight.png"))
    assert wide["scores"] == eight["scores"]


def test_a_range_is_given_once_and_kept(sources, tmp_path):
    gallery = tmp_path / "gallery"
    heights = tmp_path / "heights"
    for path in sorted(sources[0].iterdir()):
        write(heights / f"{path.stem}.tif", np.asarray(Image.open(path).convert("L")).astype(np.float32) / 255 - 0.5)
    assert "--pixel-range LOW HIGH" in refused("build", heights, gallery, *PLAIN)
    assert not gallery.exists()
    run("build", heights, gallery, *PLAIN, "--pixel-range", -0.5, 0.5)
    assert "pixels from -0.5 to 0.5" in run("info", gallery).stdout
    assert "nearest 003.tif" in run("query", gallery, heights / "003.tif").stdout
    run("build", heights, gallery, *PLAIN)
    other = refused("build", heights, gallery, *PLAIN, "--pixel-range", 0, 1)
    assert "--pixel-range -0.5 0.5, not 0 1" in other
    assert "--bits None, not 12" in refused("build", heights, gallery, *PLAIN, "--bits", 12)


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), ("nan", 1), (0, "inf")])
def test_a_range_that_cannot_be_is_refused(sources, tmp_path, limits):
    assert "pixel range" in refused("build", sources[0], tmp_path / "gallery", "--pixel-range", *limits)
    assert not (tmp_path / "gallery").exists()


def test_bits_and_a_range_exclude_each_other(sources, tmp_path):
    both = ["--bits", 12, "--pixel-range", 0, 1]
    assert "either" in refused("build", sources[0], tmp_path / "gallery", *both)


@pytest.mark.usefixtures("quick_tuning")
def test_heat_maps_thumbnails_and_tuning_show_the_range(sources, tmp_path):
    good = deep(write_normal(tmp_path / "eight", 20), tmp_path / "normal", 12, ".tif")
    gallery, out = tmp_path / "gallery", tmp_path / "out"
    run("build", good, gallery, *BACKBONE)
    queries = deep(sources[1], tmp_path / "queries", 12, ".tif")
    run("query", gallery, queries, "--out", out)
    expected = np.asarray(Image.open(sources[1] / "000.png")).mean()
    assert np.asarray(Image.open(out / "heatmaps" / "000.tif.png").convert("RGB")).mean() > expected / 2
    with Gallery(gallery) as opened:
        rows = list(opened.images())
        shown = [np.asarray(image) for _, image in originals(rows, opened.settings.preprocessing)]
    assert np.array_equal(shown[0], np.asarray(Image.open(tmp_path / "eight" / "000.png")))


def test_many_queries_of_another_range_are_counted(sources, tmp_path):
    run("build", deep(sources[0], tmp_path / "normal", 16, ".png"), tmp_path / "gallery", *PLAIN)
    dark = deep(write_normal(tmp_path / "eight", 9, start=60), tmp_path / "dark", 12, ".png")
    lines = run("query", tmp_path / "gallery", dark).stderr.splitlines()
    assert len([line for line in lines if "--bits 12" in line]) == 5
    assert lines[-1] == "the same of 4 more images"


def test_a_first_build_that_fails_binds_nothing(sources, tmp_path):
    good = deep(sources[0], tmp_path / "normal", 12, ".png")
    gallery = tmp_path / "gallery"
    assert "none of 6 images could be decoded" in run("build", good, gallery, *PLAIN, "--bits", 10, status=1).stderr
    run("build", good, gallery, *PLAIN[:2], "--input-size", 96, "--no-tune", "--bits", 12)
    with Gallery(gallery) as opened:
        assert len(opened) == 6
        how = opened.settings.preprocessing
        assert (how.bits, how.input_size) == (12, (96, 96))
        assert list(opened.verify()) == []


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_dataset_of_12_bits_has_the_figures_of_8(dataset, tmp_path, suffix):
    twelve = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    for folder in (twelve / "train" / "good", twelve / "test" / "good", twelve / "test" / "hole"):
        for path in sorted(folder.iterdir()):
            pixels = np.asarray(Image.open(path))
            path.unlink()
            write(path.with_suffix(suffix), scaled(pixels, 12))
    assert "12 bits" in run("evaluate", twelve, "--json", tmp_path / "12.json", *PLAIN).stderr
    run("evaluate", dataset, "--json", tmp_path / "8.json", *PLAIN)
    found, expected = (json.loads((tmp_path / f"{bits}.json").read_text()) for bits in (12, 8))
    for figure in ("image_roc_auc", "pixel_roc_auc", "pro"):
        assert found[figure] == expected[figure]


def test_a_new_gallery_says_that_frames_are_not_read(tmp_path):
    for number in range(7):
        normal(number).save(tmp_path / f"{number}.gif", save_all=True, append_images=[normal(10 + number)])
    said = run("build", tmp_path, tmp_path / "g", *BACKBONE, "--no-tune").stderr
    assert said.count("several frames") == 5
    assert "the same of 2 more images" in said
