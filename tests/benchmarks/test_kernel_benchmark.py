"""Tests of the kernel benchmark: it times only correct contenders, on the documented features."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from spade_index import load_backbone
from spade_index.benchmarks import pixel_search, pixel_sets
from spade_index.benchmarks.harness import WrongResult
from spade_index.benchmarks.pixel_checks import Oracle, check_small, small_search
from spade_index.benchmarks.pixel_memory import peak_memory
from spade_index.benchmarks.pixel_peers import CONTENDERS, PER_LEVEL, Prepared, prepared
from spade_index.kernels import MODES, nearest_pixels

from helpers.cli_runs import refused, run, write_dataset

CPU = torch.device("cpu")
INSTALLED = [contender for contender in CONTENDERS.values() if contender.missing(CPU) is None]
QUICK = ["--input-size", "64", "--neighbours", "2", "--repeats", "1", "--peer-maps", "1", "--no-memory"]


@pytest.fixture(autouse=True)
def small_gemm(monkeypatch):
    monkeypatch.setattr(pixel_search, "GEMM", (64, 32, 64))


@pytest.fixture(scope="module")
def case():
    """A search of two maps with native features."""
    pictures = pixel_sets.make_pictures("coffee", 2, 64, None, "cpu")
    return next(pixel_sets.make_cases(pictures, "native", "cpu"))


def settings(*contenders):
    return pixel_search.Settings(contenders=contenders, neighbours=2, repeats=1, peer_maps=1, memory=False)


def test_the_command_measures_and_writes_json_and_a_picture(tmp_path):
    file, picture = tmp_path / "kernel.json", tmp_path / "kernel.png"
    written = ["--json", file, "--picture", picture]
    result = run("benchmark", "kernel", *QUICK, "--sets", "coffee,brick", "--shapes", "native", *written)
    assert "coffee, good query: 24x16x16, 40x8x8, 112x4x4; 2 maps" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    results = json.loads(file.read_text())
    assert {"command", "machine", "versions", "commit", "threads", "device", "tolerances"} <= set(results)
    assert "orthonormal" in results["features"]
    names = [(case["set"], case["query"]) for case in results["cases"]]
    assert names == [(name, query) for name in ("coffee", "brick") for query in ("good", "defective")]
    for case in results["cases"]:
        assert case["dense_gflop"] == pytest.approx(2 * 2 * (256**2 * 24 + 64**2 * 40 + 16**2 * 112) / 1e9)
        assert case["gemm_peak_gflops"]["float32"] > 0
        entries = {entry["contender"]: entry for entry in case["contenders"]}
        assert set(entries) == set(CONTENDERS)
        for key, entry in entries.items():
            if CONTENDERS[key].missing(CPU):
                assert entry["status"] == "skipped"
                assert "installed" in entry["reason"]
                continue
            assert entry["status"] == "ok", entry
            assert entry["ms_min"] <= entry["ms"] <= entry["ms_max"]
            assert entry["ms_per_map"] == pytest.approx(entry["ms"] / 2)
            assert entry["measured_maps"] == (2 if CONTENDERS[key].ours else 1)
            assert entry["extrapolated"] is not CONTENDERS[key].ours
            assert entry["faster_than"]["cdist"] == pytest.approx(entries["cdist"]["ms"] / entry["ms"])
        assert entries["difference"]["measured_pixels"] == 8
        assert entries["dense"]["peak_share"] > 0
        assert 0 <= entries["pruned"]["survivors"] <= 1


def test_a_dataset_is_searched_among_its_nearest_images(tmp_path):
    dataset, file = write_dataset(tmp_path / "dataset"), tmp_path / "kernel.json"
    options = ["--tiles", dataset, "--sets", "tiles", "--shapes", "wrn", "--peers", "cdist,dense", "--json", file]
    run("benchmark", "kernel", *QUICK, *options)
    good, defective = json.loads(file.read_text())["cases"]
    assert (good["set"], good["query"], defective["query"]) == ("tiles", "good", "defective")
    assert good["channels"] == [256, 512, 1024]
    assert good["weights"] == [1.0, 1.0, 1.0]


def test_a_set_whose_picture_is_not_installed_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setitem(pixel_sets.OBJECTS, "coffee", ("nowhere.png", *pixel_sets.OBJECTS["coffee"][1:]))
    result = run("benchmark", "kernel", *QUICK, "--sets", "coffee", "--json", tmp_path / "kernel.json")
    assert result.stdout == "coffee: left out, nowhere.png is not installed with scikit-image\n\n"
    results = json.loads((tmp_path / "kernel.json").read_text())
    assert (list(results["sets_left_out"]), results["cases"]) == (["coffee"], [])


def test_invalid_options_are_refused_in_one_line(tmp_path):
    assert refused("benchmark", "kernel", "--sets", "tea").startswith("unknown set 'tea': choose from coffee")
    assert refused("benchmark", "kernel", "--peers", "abacus").startswith("unknown contender 'abacus': choose from")
    assert refused("benchmark", "kernel", "--sets", "tiles").endswith("give --tiles DATASET")
    assert "no images" in refused("benchmark", "kernel", "--sets", "tiles", "--tiles", tmp_path)
    assert "no such folder" in refused("benchmark", "kernel", "--picture", tmp_path / "nowhere" / "kernel.png")
    dataset = write_dataset(tmp_path / "dataset")
    few = refused("benchmark", "kernel", "--sets", "tiles", "--tiles", dataset, "--neighbours", 13)
    assert few.endswith("train/good has 12 images: ask for no more --neighbours")


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr("spade_index.cli.benchmark.find_spec", lambda module: None)
    assert refused("benchmark", "kernel").endswith("pip install psutil scikit-image")


def farther(search, given):
    distances, matches = CONTENDERS["cdist"].run(search, given)
    return distances * 1.001, matches


def elsewhere(search, given):
    distances, matches = CONTENDERS["cdist"].run(search, given)
    return distances, (matches + 1) % (search.maps * search.pixels)


def nowhere(search, given):
    distances, matches = CONTENDERS["cdist"].run(search, given)
    return distances, matches + search.maps * search.pixels


def undefined(search, given):
    distances, matches = CONTENDERS["cdist"].run(search, given)
    return distances * float("nan"), matches


def broken(search, given):
    raise RuntimeError("out of order")


@pytest.mark.parametrize("wrong", [farther, elsewhere, nowhere, undefined, broken])
def test_a_wrong_contender_is_not_timed(case, monkeypatch, wrong):
    contender = replace(CONTENDERS["gemm"], run=wrong)
    monkeypatch.setitem(CONTENDERS, "gemm", contender)
    with pytest.raises((WrongResult, RuntimeError)):
        check_small(contender, 1, "concat-nearest", CPU)
    chosen = settings("cdist", "gemm")
    assert list(pixel_search.wrong_on_small(chosen, CPU)) == ["gemm"]
    for out_before in ({}, {"gemm": "on small maps: it was wrong"}):
        good, failed = pixel_search.measure(case, chosen, out_before, memory=False, peaks={})["contenders"]
        assert good["status"] == "ok"
        assert failed["status"] == "failed"
        assert failed["reason"]
        assert "ms" not in failed
        assert list(good["faster_than"]) == ["cdist"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 3])
def test_the_oracle_agrees_with_the_reference_backend(mode, k):
    search = small_search([(9, 7), (5, 4), (3, 3)], k, mode, CPU)
    rows = torch.tensor([0, 5, 62, 31])
    pages = torch.arange(3)[None]
    given = {"sizes": search.sizes, "weights": search.weights, "mode": mode}
    distances, matches = nearest_pixels(search.query, search.pool, pages, k, **given, backend="reference")
    oracle = Oracle(search, rows)
    torch.testing.assert_close(oracle.nearest.float(), distances[0, rows])
    assert oracle.check((distances[0, rows], matches[0, rows])) == {
        "distance_error": pytest.approx(0, abs=1e-6),
        "exact_matches": 1.0,
    }
    with pytest.raises(WrongResult, match="matches are" if k == 1 else "found twice"):
        oracle.check((distances[0, rows], matches[0, rows] * 0))


@pytest.mark.parametrize("contender", INSTALLED, ids=lambda contender: contender.key)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 4])
def test_contenders_are_correct(contender, mode, k):
    if mode in contender.modes:
        check_small(contender, k, mode, CPU)
    else:
        case_of_mode = contender.takes(small_search([(4, 4), (2, 2)], k, mode, CPU), 1, torch.arange(16))
        assert contender.own_mode == PER_LEVEL or pixel_search.unfit(contender, case_of_mode)


def test_prepared_contenders_do_not_read_the_gallery(case):
    search = pixel_search.Search(case.levels, case.pool, case.sizes, case.weights, 1, "concat-nearest")
    given = prepared(search)
    without = replace(search, pool=[level.fill_(float("nan")) for level in [p.clone() for p in search.pool]])
    assert isinstance(given, Prepared)
    for contender in INSTALLED:
        if contender.prepare is prepared and contender.rows is None:
            distances, _ = contender.run(without, given)
            assert torch.isfinite(distances).all()


def test_wrn_features_keep_all_distances():
    pictures = pixel_sets.make_pictures("brick", 2, 64, None, "cpu")
    made = next(pixel_sets.make_cases(pictures, "wrn", "cpu"))
    assert [tuple(level.shape) for level in made.pool] == [(2, 256, 256), (2, 64, 512), (2, 16, 1024)]
    assert {level.dtype for level in made.pool} == {torch.float16}
    assert {level.dtype for level in made.levels} == {torch.float32}
    levels = tuple(f"{level}._project_conv" for level in ("_blocks.2", "_blocks.4", "_blocks.10"))
    expanded: list[torch.Tensor] = []  # the inputs of the projections
    backbone = load_backbone(
        "efficientnet-lite0",
        levels=levels,
        preprocessing=lambda default: replace(default, input_size=(64, 64)),
        device="cpu",
    )
    modules = dict(backbone._model.named_modules())
    for level in levels:
        modules[level].register_forward_pre_hook(lambda module, inputs: expanded.append(inputs[0]))
    backbone(pictures[0].image[None])
    for real, level in zip(expanded, made.levels, strict=True):
        flat = real[0].flatten(1).T  # [H*W, C]
        made_of, real_of = (torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist") for f in (level[0], flat))
        torch.testing.assert_close(made_of, real_of, rtol=1e-4, atol=1e-4)


def test_sets_are_deterministic_and_their_queries_differ():
    first, again = (pixel_sets.make_pictures("cat", 2, 64, None, "cpu") for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.gallery, other.gallery)
    assert [of.query for of in first] == ["good", "defective"]
    assert (first[0].image != first[1].image).any()
    assert first[0].image.dtype == np.uint8


def test_texture_queries_come_from_another_part_than_the_gallery(monkeypatch):
    picture = np.zeros((512, 512, 3), np.float32)
    picture[:, int(np.ceil(pixel_sets.GALLERY_PART * 512)) :] = 1
    monkeypatch.setattr(pixel_sets, "_picture", lambda file: picture)
    good, _ = pixel_sets.make_pictures("grass", 20, 64, None, "cpu")
    assert good.gallery.max() < 128 < good.image.min()


def test_peak_memory_excludes_all_but_the_search():
    search = small_search([(64, 64), (32, 32), (16, 16)], 1, "concat-nearest", CPU)
    contender = CONTENDERS["difference"]
    part = replace(search.first(1), rows=torch.arange(64))
    differences = 4 * 64 * 64**2 * sum(level.shape[2] for level in search.query) / 1e6  # MB
    peak = peak_memory(contender, part)
    assert peak == pytest.approx(differences, rel=0.5)
