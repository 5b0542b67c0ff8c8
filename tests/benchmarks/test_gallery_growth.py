"""Tests of the growth benchmark at small sizes: figures, real and drawn images, peers."""

import json
from importlib.util import find_spec
from multiprocessing import get_context

import faiss
import numpy as np
import pytest

from spade_index import Gallery
from spade_index.benchmarks import gallery_growth, growth_data, growth_measure, processes
from spade_index.benchmarks.growth_measure import recalls
from spade_index.benchmarks.harness import WrongResult
from spade_index.benchmarks.processes import Failed, in_own_process
from spade_index.gallery.index.descriptors import Descriptors, descriptors_file

from helpers.cli_runs import refused, run
from helpers.growth import in_limited_process
from helpers.tiny import write_images

PHOTOGRAPHS, HELD, REAL = 200, 30, 170


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder of the work and the JSON, what the command printed, and its figures."""
    folder = tmp_path_factory.mktemp("growth")
    write_images(folder / "photographs", PHOTOGRAPHS, size=(32, 32))
    arguments = ["--photographs", folder / "photographs", "--work", folder / "work", "--sizes", "400,100"]
    arguments += ["--queries", 20, "--input-size", 32, "--peers", "flat", "--keep"]
    arguments += ["--json", folder / "growth.json", "--picture", folder / "growth.png"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery_growth, "in_own_process", in_limited_process)
        result = run("benchmark", "gallery", *arguments)
    return folder, result.stdout, json.loads((folder / "growth.json").read_text())


def test_every_size_reports_real_and_drawn_images(measured):
    folder, printed, results = measured
    assert {"command", "machine", "versions", "commit", "settings"} <= set(results)
    assert (results["photographs"], results["held_out"], results["real"]) == (PHOTOGRAPHS, HELD, REAL)
    assert (results["test_queries"], results["tuning_queries"]) == (20, 10)
    assert [(e["images"], e["real"], e["drawn"]) for e in results["sizes"]] == [(100, 100, 0), (400, REAL, 400 - REAL)]
    assert f"{REAL} photographs, beyond them descriptors drawn around theirs" in printed
    assert (folder / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_gallery_holds_real_and_drawn_images(measured):
    folder, _, _ = measured
    with Gallery(folder / "work" / "gallery") as gallery:
        ids = [row.id for row in gallery.images()]
        assert ids[:REAL] == [file.id for file in growth_data.shuffled(folder / "photographs")[HELD:]]
        assert ids[REAL:] == [f"drawn/{number:07d}" for number in range(REAL, 400)]
        stored = gallery.pooled([gallery.image(id) for id in ids])
        assert len(np.unique(stored, axis=0)) == 400
        rows = [gallery.image(id) for id in (ids[0], ids[2 * REAL])]
        for first, around_first in zip(*(gallery.maps([row.key]) for row in rows), strict=True):
            np.testing.assert_array_equal(first, around_first)
        assert gallery.level_variances() == pytest.approx(
            [gallery.maps([row.key for row in gallery.images()])[level].astype(float).var() for level in range(3)],
            rel=1e-3,
        )
        assert list(gallery.verify()) == []


def test_drawn_descriptors_lie_between_real_ones(measured):
    folder, _, _ = measured
    with Gallery(folder / "work" / "gallery") as gallery:
        stored = gallery.pooled(list(gallery.images()))
    base = stored[:REAL]
    nearest = faiss.knn(base, base, growth_data.AROUND + 1)[1][:, 1:]
    drawn = [growth_data.draw_descriptor(base, nearest, number) for number in range(REAL, 400)]
    np.testing.assert_array_equal(stored[REAL:], drawn)
    for pooled, of in zip(drawn[:20], range(20), strict=False):
        steps = base[nearest[of]] - base[of]  # [8, D]
        inside = np.linalg.lstsq(steps.T, pooled - base[of], rcond=None)[0]
        np.testing.assert_allclose(base[of] + inside @ steps, pooled, atol=1e-4)


def test_figures_are_consistent(measured):
    _, _, results = measured
    small, large = results["sizes"]
    assert (small["index"]["kind"], large["index"]["kind"]) == ("flat", "pca-ivf")
    assert (small["search"]["recall"], small["peers"]["flat"]["recall"], large["peers"]["flat"]["recall"]) == (1, 1, 1)
    assert large["search"]["recall"] > 0.9
    assert large["index"]["queries"] == 10
    for entry in results["sizes"]:
        assert entry["check"]["verified_queries"] == 20
        assert entry["search"]["queries"] == 20
        assert 0 < entry["search"]["ms"] <= entry["search"]["ms_p90"] <= entry["search"]["ms_p99"]
        assert entry["disk"]["descriptors"] > 4 * entry["images"] * results["dim"]
        assert entry["disk"]["shards"] > entry["images"] * results["map_bytes"]
        assert entry["cold"]["first_ms"] > 0


def test_invalid_options_are_refused_in_one_line(tmp_path):
    given = ["benchmark", "gallery", "--work", tmp_path / "work", "--photographs"]
    assert refused(*given, tmp_path / "nowhere").endswith("nowhere: no such file or folder")
    few = write_images(tmp_path / "few", 3)
    assert refused(*given, few).endswith("3 photographs are too few: give at least 200")
    assert refused(*given, few, "--peers", "abacus").startswith("unknown peer 'abacus': choose from flat")
    assert refused(*given, few, "--sizes", "10").startswith("sizes must be at least 100")
    assert refused(*given, few, "--sizes", "many").startswith("--sizes: 'many' is not")
    assert "no such folder" in refused(*given, few, "--json", tmp_path / "nowhere" / "growth.json")
    many, held = (
        write_images(tmp_path / "many", 200, size=(8, 8)),
        "is there already: choose another --work, or remove it",
    )
    assert refused(*given[:2], "--work", few, "--photographs", many).endswith(held)
    assert not (tmp_path / "work").exists()


def test_a_peer_is_left_out_at_larger_sizes():
    before = {"dim": 4, "sizes": [{"images": 1000, "peers": {"flat": {"status": "left out"}}}]}
    with pytest.raises(Failed, match="left out at 1,000 images"):
        gallery_growth.require_possible("flat", 10_000, before)
    gallery_growth.require_possible("flat", 10_000, {"dim": 4, "sizes": []})
    with pytest.raises(Failed, match=r"may take .* GB of memory"):
        gallery_growth.require_possible("flat", 10**12, {"dim": 4, "sizes": []})


def test_a_size_that_does_not_fit_on_the_disk_is_left_out(tmp_path, monkeypatch):
    results = {"map_bytes": 1000, "dim": 4, "sizes": []}
    assert gallery_growth.unfit(tmp_path, 100, results) is None
    monkeypatch.setattr(gallery_growth, "RESERVE", 1 << 60)
    assert gallery_growth.unfit(tmp_path, 100, results).startswith("it takes 1,152,921,504.6 GB of disk, and ")


def test_recall_counts_ties_with_the_last_neighbour():
    distances = np.tile(np.arange(50.0), (2, 1))
    assert recalls(distances, np.array([49.0, 49.0])).tolist() == [1, 1]
    distances[1, 25:] += 100
    assert recalls(distances, np.array([49.0, 49.0])).tolist() == [1, 0.5]


def test_peers_find_the_nearest(measured):
    folder, _, _ = measured
    query = np.load(folder / "work" / "queries.npy")[:1]
    with Gallery(folder / "work" / "gallery") as gallery:
        base = gallery.pooled(list(gallery.images()))
    keys = np.arange(7, 7 + len(base))
    exact = keys[faiss.knn(query, base, 50)[1][0]]
    for peer in growth_measure.PEERS.values():
        if find_spec(peer.package):
            built = peer.build(iter([(keys[:90], base[:90]), (keys[90:], base[90:])]), len(base), base.shape[1])
            if built.widen:
                built.widen(200)
            assert len(set(built.search(query)) & set(exact)) >= 49


def test_a_peer_gets_the_least_width_that_reaches_the_recall(measured):
    folder, _, _ = measured
    gallery, queries = folder / "work" / "gallery", np.load(folder / "work" / "queries.npy")[:10]
    descriptors = Descriptors(descriptors_file(growth_measure.index_file(gallery)))
    limits = growth_measure._exact(descriptors, queries)[:, -1]
    flat = growth_measure.PEERS["flat"].build(descriptors.blocks(), 400, queries.shape[1])
    widths: list[int] = []
    found = lambda query: flat.search(query)[: 50 if widths[-1] >= 140 else 40]  # noqa: E731
    peer = growth_measure.BuiltPeer(found, widths.append, "a graph")
    assert growth_measure._widened(peer, queries, limits, descriptors) == 140
    assert growth_measure._widened(flat, queries, limits, descriptors) is None


def test_a_failed_process_gives_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PROCESSES", get_context("spawn"))  # as outside of tests
    with pytest.raises(Failed, match=r"no gallery there; make one with"):
        in_own_process(growth_measure.cold, tmp_path, tmp_path)
    with pytest.raises(Failed, match=r"was not done after 0 s"):
        in_own_process(growth_measure.cold, tmp_path, tmp_path, limit_s=0.01)


def test_uncounted_reads_are_reported():
    disk = dict.fromkeys(("shards", "descriptors", "index", "catalog"), 1_000_000)
    entry = {"images": 1000, "real": 1000, "disk": disk, "search": {"open_and_first_ms": 2}}
    lines = gallery_growth.costs({"sizes": [{**entry, "cold": {"first_ms": 10, "first_bytes": None}}]}).splitlines()
    assert lines[1].endswith("2    10  not counted")


def test_wrong_neighbours_are_detected(measured, monkeypatch):
    folder, _, _ = measured
    query = np.load(folder / "work" / "queries.npy")[0]
    with Gallery(folder / "work" / "gallery") as gallery:
        found = gallery.nearest(query[None], 50)[0]
        growth_measure.verify(gallery, query, found)
        for wrong, what in ((found[::-1], "ascend"), ([found[0], *found[:-1]], "different"), (found, "distances are")):
            shifted = query + (1 if what == "distances are" else 0)
            with pytest.raises(WrongResult, match=what):
                growth_measure.verify(gallery, shifted, wrong)
