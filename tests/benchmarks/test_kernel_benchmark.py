"""Tests of the kernel benchmark: it times only correct contenders, on the documented features."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from spade_index import load_backbone
from spade_index.benchmarks import pixel_search, pixel_sets
from spade_index.benchmarks.harness import WrongResult
from spade_index.benchmarks.pixel_checks import Oracle
from spade_index.benchmarks.pixel_peers import CONTENDERS, Search, prepared
from spade_index.kernels import MODES, nearest_pixels

from helpers.cli_runs import refused, run, write_dataset

CPU = torch.device("cpu")
INSTALLED = [contender for contender in CONTENDERS.values() if contender.missing(CPU) is None]
QUICK = ["--input-size", "64", "--neighbours", "2", "--repeats", "1", "--peer-maps", "1"]


@pytest.fixture(scope="module")
def search():
    """Two maps with native features."""
    good, _ = pixel_sets.make_pictures("coffee", 2, 64, None)
    return pixel_sets.make_search(good, "native", 1, "concat-nearest")


def small_search(sizes, k, mode):
    """Random features in three maps of these sizes."""
    random = torch.Generator().manual_seed(0)
    shapes = [(height * width, c) for (height, width), c in zip(sizes, (8, 13, 17), strict=False)]
    query, pool = ([torch.randn(n, *shape, generator=random) for shape in shapes] for n in (1, 3))
    return Search(query, [level.half() for level in pool], sizes, [1.0, 0.5, 2.0][: len(sizes)], k, mode)


def reference(search):
    distances, matches = nearest_pixels(**search.arguments(), backend="reference")
    return distances[0], matches[0]


def check_small(contender, k, mode):
    """Compare all pixels of small maps of odd and of nested sizes, and the exact distances with the reference."""
    for sizes in ([(9, 7), (5, 4), (3, 3)], [(12, 8), (6, 4), (3, 4)], [(7, 11)]):
        part = contender.takes(small_search(sizes, k, mode), 3)
        oracle = Oracle(part, torch.arange(part.pixels))
        off = (reference(part)[0].double() - oracle.nearest).abs() / (oracle.nearest + oracle.scale[:, None])
        assert off.max() < 1e-6  # the reference returns float32
        oracle.check(contender.run(part, contender.prepare(part)), contender.fast)


def test_the_command_measures_and_writes_json_and_a_picture(tmp_path):
    file, picture = tmp_path / "kernel.json", tmp_path / "kernel.png"
    written = ["--json", file, "--picture", picture]
    result = run("benchmark", "kernel", *QUICK, "--sets", "coffee,brick", "--shapes", "native", *written)
    assert "coffee, good query: 24x16x16, 40x8x8, 112x4x4; 2 maps" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    results = json.loads(file.read_text())
    assert {"command", "machine", "versions", "commit", "threads", "tolerances"} <= set(results)
    assert "orthonormal" in results["features"]
    names = [(case["set"], case["query"]) for case in results["cases"]]
    assert names == [(name, query) for name in ("coffee", "brick") for query in ("good", "defective")]
    for case in results["cases"]:
        assert case["dense_gflop"] == pytest.approx(2 * 2 * (256**2 * 24 + 64**2 * 40 + 16**2 * 112) / 1e9)
        entries = {entry["contender"]: entry for entry in case["contenders"]}
        assert set(entries) == set(CONTENDERS)
        for key, entry in entries.items():
            if CONTENDERS[key].missing(CPU):
                assert entry["status"] == "skipped"
                assert "installed" in entry["reason"]
                continue
            assert entry["status"] == "ok", entry
            assert entry["ms_min"] <= entry["ms"] <= entry["ms_max"]
            ours = CONTENDERS[key].options is not None
            assert entry["measured_maps"] == (2 if ours else 1)
            assert entry["extrapolated"] is not ours
            assert entry["faster_than"]["cdist"] == pytest.approx(entries["cdist"]["ms"] / entry["ms"])
        assert 0 <= entries["torch"]["survivors"] <= 1


def test_a_dataset_is_searched_among_its_nearest_images(tmp_path):
    dataset, file = write_dataset(tmp_path / "dataset"), tmp_path / "kernel.json"
    options = ["--tiles", dataset, "--sets", "tiles", "--shapes", "wrn", "--peers", "cdist,dense", "--json", file]
    run("benchmark", "kernel", *QUICK, *options)
    good, defective = json.loads(file.read_text())["cases"]
    assert (good["set"], good["query"], defective["query"]) == ("tiles", "good", "defective")
    assert good["channels"] == [256, 512, 1024]
    assert good["weights"] == [1.0, 1.0, 1.0]


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
def test_a_wrong_contender_is_not_timed(search, monkeypatch, wrong):
    contender = replace(CONTENDERS["faiss"], run=wrong)
    monkeypatch.setitem(CONTENDERS, "faiss", contender)
    with pytest.raises((WrongResult, RuntimeError)):
        check_small(contender, 1, "concat-nearest")
    chosen = pixel_search.Settings(contenders=("cdist", "faiss"), repeats=1, peer_maps=1)
    good, failed = pixel_search.measure(search, chosen)["contenders"]
    assert good["status"] == "ok"
    assert failed["status"] == "failed"
    assert failed["reason"]
    assert "ms" not in failed
    assert list(good["faster_than"]) == ["cdist"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 3])
def test_the_oracle_agrees_with_the_reference_backend(mode, k):
    search = small_search([(9, 7), (5, 4), (3, 3)], k, mode)
    rows = torch.tensor([0, 5, 62, 31])
    distances, matches = (found[rows] for found in reference(search))
    oracle = Oracle(search, rows)
    torch.testing.assert_close(oracle.nearest.float(), distances)
    assert oracle.check((distances, matches)) == {
        "distance_error": pytest.approx(0, abs=1e-6),
        "exact_matches": 1.0,
    }
    with pytest.raises(WrongResult, match="matches are" if k == 1 else "found twice"):
        oracle.check((distances, matches * 0))


@pytest.mark.parametrize("contender", INSTALLED, ids=lambda contender: contender.key)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 4])
def test_contenders_are_correct(contender, mode, k):
    if mode in contender.modes or contender.own_mode:
        check_small(contender, k, mode)
    else:
        assert contender.unfit(contender.takes(small_search([(4, 4), (2, 2)], k, mode), 1)) == f"does not search {mode}"


def test_prepared_contenders_do_not_read_the_gallery(search):
    given = prepared(search)
    without = replace(search, pool=[torch.full_like(level, float("nan")) for level in search.pool])
    for contender in INSTALLED:
        if contender.prepare is prepared:
            distances, _ = contender.run(without, given)
            assert torch.isfinite(distances).all()


def test_wrn_features_keep_all_distances():
    good, _ = pixel_sets.make_pictures("brick", 2, 64, None)
    made = pixel_sets.make_search(good, "wrn", 1, "concat-nearest")
    assert [tuple(level.shape) for level in made.pool] == [(2, 256, 256), (2, 64, 512), (2, 16, 1024)]
    assert {level.dtype for level in made.pool} == {torch.float16}
    assert {level.dtype for level in made.query} == {torch.float32}
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
    backbone(good.image[None])
    for real, level in zip(expanded, made.query, strict=True):
        flat = real[0].flatten(1).T  # [H*W, C]
        made_of, real_of = (torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist") for f in (level[0], flat))
        torch.testing.assert_close(made_of, real_of, rtol=1e-4, atol=1e-4)


def test_sets_are_deterministic_and_their_queries_differ():
    first, again = (pixel_sets.make_pictures("cat", 2, 64, None) for _ in range(2))
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
    good, _ = pixel_sets.make_pictures("grass", 20, 64, None)
    assert good.gallery.max() < 128 < good.image.min()
