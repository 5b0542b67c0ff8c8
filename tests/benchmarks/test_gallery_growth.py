"""Tests of the growth benchmark at small sizes: figures, real and drawn images, resuming, peers."""

import json
import os

import faiss
import numpy as np
import pytest

from spade_index import Gallery
from spade_index.benchmarks import (
    gallery_growth,
    growth_data,
    growth_measure,
    growth_peers,
    growth_report,
)
from spade_index.benchmarks.growth_measure import recalls
from spade_index.benchmarks.harness import WrongResult
from spade_index.benchmarks.processes import Failed, in_own_process

from helpers.cli_runs import refused, run
from helpers.tiny import write_images

PHOTOGRAPHS, HELD, REAL = 200, 40, 160
EXACT = 200  # EXACT_LIMIT of the index in the processes of the benchmark


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The work folder, what the command printed, its arguments, and its JSON."""
    folder = tmp_path_factory.mktemp("growth")
    write_images(folder / "photographs", PHOTOGRAPHS, size=(32, 32))
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if '-c' in sys.orig_argv:\n"
        "    from spade_index.gallery.index import build\n"
        f"    build.EXACT_LIMIT = {EXACT}\n"
    )
    arguments = ["--photographs", folder / "photographs", "--work", folder / "work", "--sizes", "400,100"]
    arguments += [
        "--queries",
        20,
        "--input-size",
        32,
        "--peers",
        "flat,no-components",
        "--json",
        folder / "growth.json",
    ]
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        patch.setenv("PYTHONPATH", path)
        patch.setenv("OMP_NUM_THREADS", "1")
        result = run("benchmark", "gallery", *arguments, "--picture", folder / "growth.png")
    return folder, result.stdout, arguments, json.loads((folder / "growth.json").read_text())


def test_every_size_reports_real_and_drawn_images(measured):
    folder, printed, _, results = measured
    assert {"command", "machine", "versions", "commit", "read_ahead_kb"} <= set(results)
    assert (results["photographs"], results["held_out"], results["real"]) == (PHOTOGRAPHS, HELD, REAL)
    assert (results["test_queries"], results["tuning_queries"]) == (20, 10)
    assert [(e["images"], e["real"], e["drawn"]) for e in results["sizes"]] == [(100, 100, 0), (400, 160, 240)]
    assert "160 photographs, beyond them descriptors drawn around theirs" in printed
    for name in ("growth.png", "growth_memory.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_gallery_holds_real_and_drawn_images(measured):
    folder, _, _, _ = measured
    with Gallery(folder / "work" / "gallery") as gallery:
        ids = [row.id for row in gallery.images()]
        features = growth_data.Features.read(folder / "work", HELD)
        assert ids[:REAL] == features.ids[HELD:]
        assert ids[REAL:] == [f"drawn/{number:07d}" for number in range(REAL, 400)]
        stored = gallery.pooled([gallery.image(id) for id in ids])
        assert len(np.unique(stored, axis=0)) == 400
        np.testing.assert_array_equal(stored[:REAL], features.pooled[HELD:])
        assert gallery.level_variances() == pytest.approx(
            [gallery.maps([row.key for row in gallery.images()])[level].astype(float).var() for level in range(3)],
            rel=1e-3,
        )
        assert list(gallery.verify()) == []


def test_drawn_descriptors_lie_between_real_ones(measured):
    folder, _, _, _ = measured
    features = growth_data.Features.read(folder / "work", HELD)
    nearest = growth_data.nearest_real(folder / "work", features)
    drawn = growth_data.rows(features, nearest, REAL, 400)
    again = growth_data.rows(features, nearest, 300, 350)
    np.testing.assert_array_equal(drawn.pooled[300 - REAL : 350 - REAL], again.pooled)
    for pooled, of in zip(drawn.pooled[:20], drawn.of, strict=False):
        steps = features.pooled[HELD + nearest[of - HELD]] - features.pooled[of]  # [8, D]
        inside = np.linalg.lstsq(steps.T, pooled - features.pooled[of], rcond=None)[0]
        np.testing.assert_allclose(features.pooled[of] + inside @ steps, pooled, atol=1e-4)


def test_figures_are_consistent(measured):
    _, _, _, results = measured
    small, large = results["sizes"]
    assert (small["index"]["kind"], large["index"]["kind"]) == ("flat", "pca-ivf")
    assert (small["search"]["recall"], small["peers"]["flat"]["recall"], large["peers"]["flat"]["recall"]) == (1, 1, 1)
    assert large["search"]["recall"] > 0.9
    assert large["index"]["queries"] == 10
    assert small["check"]["list_bytes"] == 4 * 100 * results["dim"]
    for entry in results["sizes"]:
        assert entry["check"]["verified_queries"] == 20
        assert entry["search"]["queries"] == 20
        assert 0 < entry["search"]["ms"] <= entry["search"]["ms_p90"] <= entry["search"]["ms_p99"]
        assert entry["disk"]["descriptors"] > 4 * entry["images"] * results["dim"]
        assert entry["disk"]["shards"] > entry["images"] * results["map_bytes"]
        assert entry["pixels"]["map_bytes"] == 50 * results["map_bytes"]
        assert entry["pixels"]["warm"]["maps_ms"] > 0
        assert entry["add"]["images"] == 10
    assert small["peers"]["no-components"] == {
        "status": "left out",
        "reason": "the same as ours at this size",
        "extrapolated_s": None,
    }
    assert large["peers"]["no-components"]["text"].startswith("ivf index of 400 images, sq8, nlist")


def test_a_second_run_measures_nothing_again(measured):
    folder, _, arguments, results = measured
    printed = run("benchmark", "gallery", *arguments).stdout
    assert "400 images: " not in printed
    again = json.loads((folder / "growth.json").read_text())
    assert again["sizes"] == results["sizes"]
    smaller = run("benchmark", "gallery", *arguments[:4], *arguments[6:10], "--sizes", "200").stdout
    assert "200 images: left out, the gallery has grown to 400 images" in smaller
    other = refused("benchmark", "gallery", *arguments[:10], "--storage", "pq")
    assert other.endswith("has a gallery of storage sq8, not pq: take another --work")


def test_invalid_options_are_refused_in_one_line(tmp_path):
    given = ["benchmark", "gallery", "--work", tmp_path / "work", "--photographs"]
    assert refused(*given, tmp_path / "nowhere").endswith("nowhere: no such file or folder")
    few = write_images(tmp_path / "few", 3)
    assert refused(*given, few).endswith("3 photographs are too few: give at least 200")
    assert refused(*given, few, "--peers", "abacus").startswith("unknown peer 'abacus': choose from flat")
    assert refused(*given, few, "--sizes", "10").startswith("sizes must be at least 100")
    assert refused(*given, few, "--sizes", "many").startswith("--sizes: 'many' is not")
    assert "no such folder" in refused(*given, few, "--json", tmp_path / "nowhere" / "growth.json")
    many = write_images(tmp_path / "many", 200, size=(8, 8))
    assert refused(*given[:2], "--work", few, "--photographs", many).endswith("holds something else: choose a new one")
    assert not (tmp_path / "work").exists()


def test_build_time_is_extrapolated_from_the_largest_size_built():
    before = [{"images": 1000, "peers": {"flat": {"status": "ok", "seconds": 3.0}}}]
    assert gallery_growth.extrapolated("flat", 1_000_000, before) == pytest.approx(3.0 * 1000 * 2)
    assert gallery_growth.extrapolated("hnswlib", 1_000_000, before) is None


def test_a_size_that_does_not_fit_on_the_disk_is_left_out(measured, monkeypatch):
    folder, _, arguments, _ = measured
    monkeypatch.setattr(gallery_growth, "RESERVE", 1 << 60)
    printed = run("benchmark", "gallery", *arguments[:4], *arguments[6:10], "--sizes", "500").stdout
    assert "500 images: left out, it takes" in printed
    assert (folder / "work" / "gallery").exists()


def test_recall_counts_ties_with_the_last_neighbour():
    distances = np.tile(np.arange(50.0), (2, 1))
    assert recalls(distances, np.array([49.0, 49.0])).tolist() == [1, 1]
    distances[1, 25:] += 100
    assert recalls(distances, np.array([49.0, 49.0])).tolist() == [1, 0.5]


def test_peers_find_the_nearest(measured):
    folder, _, _, _ = measured
    features = growth_data.Features.read(folder / "work", HELD)
    base, query = np.array(features.pooled[HELD:]), np.array(features.pooled[:1])
    keys = np.arange(7, 7 + len(base))
    exact = keys[faiss.knn(query, base, 50)[1][0]]
    for peer in growth_peers.PEERS.values():
        if peer.missing() is None and peer.key != "autofaiss":
            built = peer.build(iter([(keys[:90], base[:90]), (keys[90:], base[90:])]), len(base), base.shape[1])
            if built.widen:
                built.widen(200)
            assert len(set(built.search(query)) & set(exact)) >= 49


def test_a_failed_process_gives_its_reason(tmp_path):
    with pytest.raises(Failed, match=r"no gallery there; make one with"):
        in_own_process(growth_measure.cold, tmp_path, tmp_path)
    with pytest.raises(Failed, match="No such file"):
        in_own_process(growth_data.tidy, tmp_path, 1)
    with pytest.raises(Failed, match=r"was not done after 0 s"):
        in_own_process(growth_measure.cold, tmp_path, tmp_path, limit_s=0.01)


def test_uncounted_reads_are_reported():
    assert growth_report._cost({"cold": {"bytes": None}}, ["cold", "bytes"], 1e6, ",.3g") == "not counted"


def test_wrong_neighbours_are_detected(measured, monkeypatch):
    folder, _, _, _ = measured
    query = np.load(folder / "work" / "features" / "queries.npy")[0]
    with Gallery(folder / "work" / "gallery") as gallery:
        found = gallery.nearest(query[None], 50)[0]
        growth_measure.verify(gallery, query, found)
        for wrong, what in ((found[::-1], "ascend"), ([found[0], *found[:-1]], "different"), (found, "distances are")):
            shifted = query + (1 if what == "distances are" else 0)
            with pytest.raises(WrongResult, match=what):
                growth_measure.verify(gallery, shifted, wrong)


def test_a_work_folder_with_only_its_mark_is_continued(tmp_path):
    work = gallery_growth.Work(gallery_growth.Settings(tmp_path / "photographs", tmp_path / "work"), held=1)
    work.claim(5)
    (tmp_path / "work" / "sizes").rmdir()
    work.claim(5)
    assert (tmp_path / "work" / "sizes").is_dir()
