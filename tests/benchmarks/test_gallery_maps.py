"""The benchmark of a gallery with its maps, at small sizes: what it holds and measures, and how it is carried on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from spade_index.benchmarks import gallery_maps, growth_data, maps_measure
from spade_index.benchmarks.gallery_maps import OutOfTime, Steps, rate, stops
from spade_index.benchmarks.harness import WrongResult
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.tiny import write_images

PHOTOGRAPHS, HELD, FIRST, REAL, ALL = 70, 6, 55, 68, 80


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder of the work, the figures, and what was printed, of a command that was interrupted twice."""
    folder = tmp_path_factory.mktemp("maps")
    write_images(folder / "photographs", PHOTOGRAPHS, size=(32, 32))
    given = [folder / "photographs", folder / "work", "--sizes", f"{FIRST},{ALL}", "--real", REAL, "--queries", 4]
    given += ["--input-size", 32, "--removed", 6, "--kills", "0.1", "--turns", 1, "--keep"]
    given += ["--json", folder / "figures.json"]
    for options in (["--minutes", 0], []):
        told = CliRunner().invoke(gallery_maps.main, [*map(str, given), *map(str, options)], catch_exceptions=False)
        assert told.exit_code == 0
        assert ("the same command carries on" in told.output) == bool(options)
    return folder, json.loads((folder / "figures.json").read_text()), told.output


def test_it_holds_photographs_altered_ones_and_drawn_ones(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, figures, printed = run
    sizes = [(entry["images"], entry["real"], entry["drawn"]) for entry in figures["sizes"]]
    assert sizes == [(FIRST, FIRST, 0), (ALL, REAL, ALL - REAL)]
    assert figures["photographs"] == PHOTOGRAPHS - HELD
    with Gallery(folder / "work" / "gallery") as gallery:
        assert (gallery.codec, gallery.stored_levels) == ("pq", (1, 2))
        ids = [row.id for row in gallery.images()]
        queries = {file.id for file in growth_data.shuffled(folder / "photographs")[:HELD]}
        assert not queries & set(ids)
        assert sum(id.startswith("drawn/") for id in ids) == ALL - REAL - 6
        assert list(gallery.verify()) == []
    assert f"{ALL}  " in printed
    assert "killed" in printed


def test_a_drawn_image_has_the_codes_of_photographs_at_the_same_places(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, _ = run
    with Gallery(folder / "work" / "gallery") as gallery:
        around = growth_data.Around.photographs(gallery, folder / "nearest.npy")
        stay = []
        for row in list(gallery.images())[REAL:]:
            drawn = around.drawn(int(row.id.removeprefix("drawn/")))
            stored = gallery.stored(row)
            np.testing.assert_array_equal(stored.pooled, drawn.stored.pooled)
            of = int(row.id.removeprefix("drawn/")) % REAL
            near = [of, *around.nearest[of]]
            assert len(stored.maps[0]) == 0
            for codes, level in zip(around.codes[1:], stored.maps[1:], strict=True):
                same = (codes[near] == level.reshape(codes.shape[1:])).all(2)  # [1 + AROUND, places]
                assert same.any(0).all()
                stay.append(same[0].mean())
        assert 0.4 < np.mean(stay) < 1


def test_figures_are_consistent(run: tuple[Path, dict[str, Any], str]) -> None:
    _, figures, _ = run
    for entry in figures["sizes"]:
        assert entry["disk"]["total"] > entry["images"] * figures["begin"]["map_bytes"]
        search, cold = entry["search"], entry["cold"]
        assert search["whole_ms"] > max(search["image_ms"], search["pixel_ms"], search["backbone_ms"]) > 0
        assert min(cold["cold_ms"], cold["cold_open_ms"]) > 0
    assert figures["rates"]["add to"]["images"] == REAL - FIRST
    assert figures["rates"]["draw to"]["images"] == ALL - REAL
    crash = figures["crash"]
    assert crash["carried_on"]["images"] == crash["verified_again"]["images"] == ALL - 6
    assert crash["verified"]["images"] == ALL
    assert figures["ingest"]["images"] == REAL - FIRST
    begun = figures["begin"]
    assert begun["float16_bytes"] / begun["map_bytes"] > 4


def test_a_kill_that_loses_images_has_no_figures(
    run: tuple[Path, dict[str, Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = run
    count = iter([ALL, ALL - 7])
    monkeypatch.setattr(maps_measure.Gallery, "__len__", lambda gallery: next(count))
    with pytest.raises(WrongResult, match=rf"{ALL - 7} images after a kill, not {ALL}"):
        maps_measure.killed(folder / "work" / "gallery", 0.01)


def test_a_step_that_was_done_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text('{"done": {"images": 3}}')
    steps = Steps(tmp_path / "steps.json", minutes=0)
    assert steps.do("done", maps_measure.verify, tmp_path) == {"images": 3}
    with pytest.raises(OutOfTime):
        steps.do("another", maps_measure.verify, tmp_path)


def test_figures_are_noted_after_so_many_images() -> None:
    assert stops(25_000, 20_000) == [10_000, 20_000, 25_000]
    assert stops(450_000, 20_000) == [10_000, 20_000, 220_000, 420_000, 450_000]
    assert stops(100, 200) == [100]
    rows = [{"images": 10, "seconds": 2.0}, {"images": 20, "seconds": 1.0}]
    assert rate(rows) == {"images": 30, "seconds": 3.0, "per_second": 10}
    assert rate([])["per_second"] is None


def test_altered_photographs_are_others_and_the_same_each_time(tmp_path: Path) -> None:
    files = growth_data.shuffled(write_images(tmp_path / "photographs", 3, size=(32, 32)))
    found = growth_data.altered(tmp_path / "altered", files, 5)
    first = [file.read() for file in found]
    assert len(set(first)) == 5
    (tmp_path / "altered" / "0000002.png").unlink()
    assert [file.read() for file in growth_data.altered(tmp_path / "altered", files, 5)] == first


def test_a_gallery_is_drawn_on_from_where_it_was(run: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder, _, _ = run
    maps_measure.keep(folder / "work" / f"gallery-{FIRST}", tmp_path / "gallery")
    for upto in (FIRST + 3, FIRST + 3, FIRST + 5):
        maps_measure.draw(tmp_path / "gallery", tmp_path, upto)
    with GalleryWriter(tmp_path / "gallery") as writer:
        assert [row.id for row in writer.gallery.images()][FIRST:] == [
            f"drawn/{n:07d}" for n in range(FIRST, FIRST + 5)
        ]
