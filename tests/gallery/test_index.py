"""FAISS indexes, flat and with inverted lists: removed images, measured recall, memory, damaged files."""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import GalleryDamaged, InputError
from spade_index.gallery.index import build as build_module
from spade_index.gallery.index.build import build_index
from spade_index.gallery.index.index import Index, IndexDescription, scan
from spade_index.gallery.index.tune import exact_neighbours
from spade_index.settings import STORAGES, IndexSettings

NONE = np.empty(0, np.int64)


def clustered(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dim))
    return (centres[rng.integers(0, 20, count)] + 0.2 * rng.normal(size=(count, dim))).astype(np.float32)


def blocks_of(descriptors: np.ndarray, keys: np.ndarray, size: int = 37) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size], descriptors[start : start + size]


def brute(queries: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    return ((queries[:, None].astype(float) - descriptors[None]) ** 2).sum(2)  # [B, n]


@pytest.fixture(params=["exact", *STORAGES])
def built(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple:
    exact = request.param == "exact"
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 1000 if exact else 100)
    descriptors, keys = clustered(600), np.arange(1, 1801, 3)
    settings = IndexSettings("flat" if exact else request.param)
    description = build_index(tmp_path / "i.faiss", lambda: blocks_of(descriptors, keys), 600, 16, settings)
    assert description.kind == ("flat" if exact else "ivf")
    assert description.settings() == settings
    return Index(tmp_path / "i.faiss", description), descriptors, keys


def test_finds_the_nearest(built: tuple) -> None:
    index, descriptors, keys = built
    queries = clustered(50, seed=1)
    distances, found = index.search(queries, index.description.count(50), NONE)
    true = brute(queries, descriptors)
    exact = keys[true.argsort(1)[:, :50]]
    overlap = np.mean([len(np.intersect1d(a, b)) / 50 for a, b in zip(found, exact, strict=True)])
    assert overlap >= (1.0 if index.description.kind == "flat" else 0.95)
    loss = {"flat": 1e-4, "fp16": 1e-2, "sq8": 0.1, "pq": 1}[index.description.storage]
    np.testing.assert_allclose(distances, np.take_along_axis(true, (found - 1) // 3, 1), rtol=loss, atol=loss / 10)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_recall_is_recorded(built: tuple) -> None:
    index, *_ = built
    description = index.description
    assert IndexDescription.from_json(description.to_json()) == description
    assert description.images == 600
    assert 0.99 <= description.recall <= 1
    assert description.candidates >= 50
    if description.kind == "ivf":
        assert 1 <= description.nprobe <= description.nlist


def test_the_measured_recall_holds_for_other_queries(built: tuple) -> None:
    index, descriptors, keys = built
    queries = clustered(100, seed=5)
    exact = exact_neighbours(np.full(100, -1), queries, blocks_of(descriptors, keys), 50)
    np.testing.assert_array_equal(exact, keys[brute(queries, descriptors).argsort(1)[:, :50]])
    found = index.search(queries, index.description.count(50), NONE)[1]
    assert np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]) >= 0.97


def test_less_recall_needs_fewer_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 100)
    descriptors, keys = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32), np.arange(2000)

    def built(recall: float) -> IndexDescription:
        settings = IndexSettings(recall=recall)
        return build_index(tmp_path / "i.faiss", lambda: blocks_of(descriptors, keys), 2000, 8, settings)

    low, high = built(0.5), built(0.99)
    assert 0.5 <= low.recall < high.recall
    assert low.nprobe < high.nprobe < high.nlist
    assert (low.target, high.target) == (0.5, 0.99)


def test_smaller_storage_makes_smaller_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 100)
    descriptors, keys = clustered(3000, 64), np.arange(3000)
    sizes = []
    for storage in STORAGES:
        path = tmp_path / storage
        build_index(path, lambda: blocks_of(descriptors, keys), 3000, 64, IndexSettings(storage))
        sizes.append(path.stat().st_size)
    assert sizes[0] > 1.6 * sizes[1] > 2.5 * sizes[2] > 2.5 * sizes[3]


def test_building_keeps_within_its_memory_or_names_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 100)
    descriptors, keys = clustered(40_000, 64), np.arange(40_000)
    lines: list[str] = []

    def built(memory: int, storage: str = "sq8") -> IndexDescription:
        settings = IndexSettings(storage, memory=memory)
        blocks = lambda: blocks_of(descriptors, keys, 500)  # noqa: E731
        return build_index(tmp_path / "i.faiss", blocks, 40_000, 64, settings, say=lines.append)

    assert built(20 << 20).recall >= 0.99
    assert int(lines[0].split()[1].replace(",", "")) < 40_000  # fewer descriptors for k-means
    with pytest.raises(InputError, match=r"stored as flat takes \d+ MiB to build, and 20 may be used: give more"):
        built(20 << 20, "flat")


@pytest.mark.parametrize(
    ("wrong", "message"), [({"storage": "gzip"}, "storage must be one of"), ({"recall": 1.5}, "recall")]
)
def test_settings_that_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        IndexSettings(**wrong)


def test_descriptions_of_earlier_versions_are_read() -> None:
    old = '{"kind": "ivf", "images": 30000, "nlist": 692, "nprobe": 8, "recall": 0.995}'
    description = IndexDescription.from_json(old)
    assert (description.storage, description.candidates, description.exact) == ("flat", 50, True)


@pytest.mark.parametrize("batch", [1, 5, 16, 17, 40])
def test_distances_do_not_depend_on_the_batch(built: tuple, batch: int) -> None:
    index, *_ = built
    queries = clustered(batch, seed=2)
    together = index.search(queries, 7, NONE)
    alone = [index.search(query[None], 7, NONE) for query in queries]
    np.testing.assert_array_equal(together[1], np.concatenate([keys for _, keys in alone]))
    np.testing.assert_allclose(together[0], np.concatenate([d for d, _ in alone]), rtol=1e-6)


def test_removed_keys_are_left_out(built: tuple) -> None:
    index, descriptors, _ = built
    queries = descriptors[:9]
    without = np.sort(index.search(queries, 3, NONE)[1].ravel())
    _, found = index.search(queries, 20, without)
    assert not np.isin(found, without).any()
    assert (found >= 0).all()


def test_all_lists_are_probed_when_too_few_images_are_left(built: tuple) -> None:
    index, descriptors, keys = built
    without = keys[5:]
    _, found = index.search(descriptors[:2], 50, without)
    for row in found:
        assert sorted(row[row >= 0]) == keys[:5].tolist()
        assert (row[5:] == -1).all()


def test_more_neighbours_than_images(built: tuple) -> None:
    index, descriptors, keys = built
    _, found = index.search(descriptors[:2], 10_000, NONE)
    for row in found:
        assert sorted(row) == keys.tolist()


def test_scan_is_exact() -> None:
    descriptors, keys = clustered(300), np.arange(1000, 1300)
    queries = clustered(33, seed=3)
    distances, found = scan(queries, keys, descriptors, 12)
    true = brute(queries, descriptors)
    np.testing.assert_array_equal(found, keys[true.argsort(1)[:, :12]])
    np.testing.assert_allclose(distances, np.sort(true, 1)[:, :12], rtol=1e-5)
    assert scan(queries, keys[:4], descriptors[:4], 12)[1].shape == (33, 4)


def test_small_distances_survive_batches() -> None:
    """Far from the origin, |x|^2 - 2xy + |y|^2 would cancel them."""
    descriptors = (1000 + 1e-2 * clustered(64)).astype(np.float32)
    distances, found = scan(descriptors, np.arange(64), descriptors, 2)
    np.testing.assert_array_equal(distances[:, 0], 0)
    np.testing.assert_allclose(distances, np.sort(brute(descriptors, descriptors), 1)[:, :2], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], np.arange(64))


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_a_damaged_file_is_named_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "i.faiss").write_bytes(content)
    with pytest.raises(GalleryDamaged, match=r"i\.faiss.*spade-index index"):
        Index(tmp_path / "i.faiss", IndexDescription("flat", 1))


@pytest.mark.parametrize("dimensions", [0, 8])
def test_each_list_is_prefetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimensions: int) -> None:
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 100)
    path, descriptors, keys = tmp_path / "i.faiss", clustered(600), np.arange(600)
    settings = IndexSettings(dimensions=dimensions)
    description = build_index(path, lambda: blocks_of(descriptors, keys), 600, 16, settings)
    assert description.kind == ("pca-ivf" if dimensions else "ivf")
    queries = clustered(40, seed=1)
    with monkeypatch.context() as patch:
        patch.delattr("os.posix_fadvise")
        expected = Index(path, description).search(queries, 60, NONE)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, start, size, advice: asked.append((start, size)))
    index = Index(path, description)
    np.testing.assert_allclose(index.search(queries[:1], 60, NONE)[0][0], expected[0][0], rtol=1e-5)
    assert 0 < len(asked) <= description.nprobe
    for _ in range(2):
        for found, right in zip(index.search(queries, 60, NONE), expected, strict=True):
            np.testing.assert_array_equal(found, right)
    index.search(queries, 600, NONE)  # all lists
    asked.sort()
    assert len(set(asked)) == len(asked) <= description.nlist
    assert all(start + size <= after for (start, size), (after, _) in pairwise(asked))
    assert sum(size for _, size in asked) <= 600 * ((dimensions or 16) + 8)
    assert asked[-1][0] + asked[-1][1] <= path.stat().st_size
