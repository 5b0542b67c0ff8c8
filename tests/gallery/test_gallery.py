"""Reading a gallery: nearest images by definition, snapshots, evidence, and the check of its files."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from spade_index.errors import GalleryDamaged, InputError, UnknownImage
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery, shards
from spade_index.gallery.index import build as build_module
from spade_index.gallery.index.build import build_index
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import IndexSettings

from helpers.tiny import brute_force, build, plain, put


def stored(gallery: Gallery) -> dict[str, np.ndarray]:
    """Return the pooled descriptor of every image by id, read from the shards with plain h5py."""
    shards = gallery.catalog.shards().items()
    files = {number: h5py.File(gallery.path / "shards" / row.file) for number, row in shards}
    found = {row.id: files[row.shard]["pooled"][row.row] for row in gallery.images()}
    for file in files.values():
        file.close()
    return found


def check(gallery: Gallery, queries: np.ndarray, k: int) -> None:
    """Check that the nearest images are those of brute force, with the same distances alone and in batches."""
    images = stored(gallery)
    assert len(images) == len(gallery)
    together = gallery.nearest(queries, k)
    assert [plain(n) for n in together] == [brute_force(query, images, k) for query in queries]
    assert [gallery.nearest(query[None], k)[0] for query in queries[:4]] == together[:4]


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(41, 12)).astype(np.float32)


@pytest.fixture
def descriptors() -> np.ndarray:
    return np.random.default_rng(6).normal(size=(300, 12)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    """Return ids whose order is not that of their numbers."""
    return [f"{(number * 7919) % 10007:05d}" for number in range(first, first + count)]


@pytest.mark.parametrize("k", [1, 3, 12, 100])
def test_nearest_is_brute_force(gallery_path: Path, queries: np.ndarray, k: int) -> None:
    with Gallery(gallery_path) as gallery:
        check(gallery, queries, k)
        assert len(gallery.nearest(queries[:1], k)[0]) == min(k, 12)


def test_nearest_of_a_stored_image_is_itself(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        for row in gallery.images():
            (nearest,) = gallery.nearest(gallery.pooled([row]), 1)
            assert (nearest[0].id, nearest[0].key, nearest[0].distance) == (row.id, row.key, 0.0)


def test_far_from_the_origin(tmp_path: Path, backbone: Backbone, descriptors: np.ndarray) -> None:
    path = tmp_path / "gallery"
    shifted = (500 + 0.05 * descriptors).astype(np.float32)
    put(path, backbone.settings, shifted, names(300))
    with GalleryWriter(path) as writer:
        writer.build_index()
    with Gallery(path) as gallery:
        check(gallery, shifted[:40], 9)


@pytest.mark.parametrize("indexed", [False, True])
def test_ties_go_to_the_lowest_id(tmp_path: Path, backbone: Backbone, descriptors: np.ndarray, indexed: bool) -> None:
    path = tmp_path / "gallery"
    same = np.repeat(descriptors[:2], 130, axis=0)
    put(path, backbone.settings, same, names(260))
    if indexed:
        with GalleryWriter(path) as writer:
            writer.build_index()
    put(path, backbone.settings, same[:20], names(20, 260))
    with Gallery(path) as gallery:
        for k in (1, 5, 140, 155):
            check(gallery, descriptors[:2], k)
            check(gallery, descriptors[1:8], k)


def test_added_and_removed_since_the_index(tmp_path: Path, backbone: Backbone, descriptors: np.ndarray) -> None:
    path = tmp_path / "gallery"
    put(path, backbone.settings, descriptors[:150], names(150))
    with GalleryWriter(path) as writer:
        writer.build_index()
    for start in range(150, 300, 6):
        put(path, backbone.settings, descriptors[start : start + 6], names(6, start))
    with GalleryWriter(path) as writer:
        writer.remove(names(40, 10))
        writer.remove(names(20, 160))
    with Gallery(path) as gallery:
        info = gallery.info()["index"]
        assert (info["added_since"], info["removed_since"]) == (130, 40)
        check(gallery, descriptors[::7], 11)


def test_without_its_index_file(gallery_path: Path, queries: np.ndarray) -> None:
    for file in (gallery_path / "index").iterdir():
        file.unlink()
    with Gallery(gallery_path) as gallery:
        check(gallery, queries, 5)
        assert [line for line in gallery.verify() if "rebuild it" in line]


def test_an_index_that_lacks_images_is_named(gallery_path: Path, queries: np.ndarray) -> None:
    (file,) = (gallery_path / "index").glob("*.faiss")
    with Gallery(gallery_path) as gallery:
        keys, descriptors = next(gallery.blocks())
        build_index(file, lambda: iter([(keys, descriptors)]), len(keys), 12)
        with pytest.raises(GalleryDamaged, match="rebuild it"):
            gallery.nearest(queries[:1], 7)


@pytest.mark.parametrize("storage", ["flat", "fp16", "sq8"])
def test_inverted_lists_rank_exactly(
    tmp_path: Path,
    backbone: Backbone,
    descriptors: np.ndarray,
    queries: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    storage: str,
) -> None:
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 100)
    path = tmp_path / "gallery"
    put(path, backbone.settings, descriptors[:250], names(250))
    with GalleryWriter(path) as writer:
        assert writer.build_index(IndexSettings(storage)).kind == "ivf"
        assert writer.index_settings().storage == storage
        gone = names(30, 100)
        writer.remove(gone)
    put(path, backbone.settings, descriptors[250:], names(50, 250))
    with Gallery(path) as gallery:
        images = stored(gallery)
        hits = 0
        for query, nearest in zip(queries, gallery.nearest(queries, 10), strict=True):
            true = dict(brute_force(query, images, len(images)))
            assert [n.distance for n in nearest] == [true[n.id] for n in nearest]
            assert sorted(plain(nearest), key=lambda n: (n[1], n[0])) == plain(nearest)
            hits += len({n.id for n in nearest} & set(list(true)[:10]))
        assert hits >= 0.9 * 10 * len(queries)
        for k in (270, 1000):
            check(gallery, queries[:3], k)


def test_an_empty_gallery_has_no_neighbours(gallery_path: Path, queries: np.ndarray) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.remove([row.id for row in writer.gallery.images()])
    with Gallery(gallery_path) as gallery:
        assert len(gallery) == 0
        assert gallery.nearest(queries[:2], 3) == [[], []]
        assert gallery.level_variances() == [1.0, 1.0, 1.0]
        assert list(gallery.verify()) == []


def test_earlier_snapshots_can_be_opened(gallery_path: Path, queries: np.ndarray) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["003.png", "011.png"])
    for snapshot, images in ((1, 5), (2, 10), (3, 12), (4, 10)):
        with Gallery(gallery_path, snapshot) as gallery:
            assert len(gallery) == images
            check(gallery, queries[:3], 4)
    with pytest.raises(InputError, match="no snapshot 9"):
        Gallery(gallery_path, 9)


def test_maps_and_thumbnails(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        rows = [gallery.image(id) for id in ("011.png", "002.png", "011.png")]
        maps = gallery.maps([row.key for row in rows])
        for slot, row in enumerate(rows):
            with h5py.File(gallery_path / "shards" / f"{row.shard:06d}.h5") as file:
                for level, values in enumerate(maps):
                    np.testing.assert_array_equal(values[slot], file[f"maps/{level}"][row.row])
            assert gallery.thumbnail(row).startswith(b"\xff\xd8")
        with pytest.raises(UnknownImage, match=r"nothing\.png"):
            gallery.image("nothing.png")


def test_level_variances_equal_numpys(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        maps = gallery.maps([row.key for row in gallery.images()])
        expected = [values.astype(float).var() for values in maps]
        np.testing.assert_allclose(gallery.level_variances(), expected, rtol=1e-5)


def test_verify_names_what_is_wrong(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []
        row = gallery.image("007.png")
        shard = gallery_path / "shards" / f"{row.shard:06d}.h5"
        data = bytearray(shard.read_bytes())
        data[data.index(gallery.maps([row.key])[1].tobytes()) + 5] ^= 64
    shard.write_bytes(data)
    (gallery_path / "shards" / "000003.h5").unlink()
    (index,) = (gallery_path / "index").glob("*.faiss")
    index.write_bytes(index.read_bytes() + b"x")
    with Gallery(gallery_path) as gallery:
        problems = list(gallery.verify())
    assert len(problems) == 3
    assert str(shard) in problems[0]
    assert "007.png" in problems[0]
    assert "000003.h5" in problems[1]
    assert str(index) in problems[2]


def test_a_missing_shard_is_named(gallery_path: Path, queries: np.ndarray) -> None:
    (gallery_path / "shards" / "000002.h5").unlink()
    with Gallery(gallery_path) as gallery, pytest.raises(GalleryDamaged, match=r"000002\.h5"):
        gallery.maps([n.key for n in gallery.nearest(queries, 12)[0]])


def test_more_shards_than_stay_open(
    tmp_path: Path, backbone: Backbone, image_folder, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "most_open", lambda: 2)
    build(tmp_path / "gallery", image_folder(9), backbone, shard_rows=1, batch_size=1, index=False)
    with Gallery(tmp_path / "gallery") as gallery:
        check(gallery, queries, 5)
        before = gallery.maps(range(1, 10))
        np.testing.assert_array_equal(before[0], gallery.maps(range(1, 10))[0])
