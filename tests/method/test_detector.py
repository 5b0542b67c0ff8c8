"""The detector against the method's definition in float64, and the inputs that it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import GalleryError, InputError, SettingsMismatch
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage
from spade_index.kernels import choose_kernel
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.settings import MODES, SearchSettings

from helpers.brute import PlainGallery
from helpers.tiny import build, tiny_backbone

Decoded = Callable[..., list[DecodedImage]]


def detect(path: Path, backbone: Backbone, images: list[DecodedImage], **search: object) -> list[Detection]:
    threshold = search.pop("threshold", None)
    with Gallery(path) as gallery:
        return Detector(gallery, backbone, SearchSettings(**search), threshold).detect(images)


def same(one: Detection, other: Detection) -> bool:
    return (one.scores, one.neighbours) == (other.scores, other.neighbours) and (
        np.array_equal(one.pixels.score_map, other.pixels.score_map)
        and np.array_equal(one.pixels.matches, other.pixels.matches)
    )


@pytest.mark.parametrize("kappa", [1, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weights", ["inverse-variance", "equal", (0.5, 2.0, 0.0)])
def test_the_method_equals_its_definition(
    gallery_path: Path, backbone: Backbone, decoded: Decoded, mode: str, kappa: int, weights: object
) -> None:
    images = decoded(2)
    search = {"score_neighbours": 2, "gallery_neighbours": 4, "pixel_neighbours": kappa, "smoothing": 1.5}
    detections = detect(gallery_path, backbone, images, mode=mode, level_weights=weights, **search)
    features = backbone(np.stack([image.pixels for image in images]))
    plain = PlainGallery(gallery_path)
    used = {"equal": [1, 1, 1], "inverse-variance": [1 / v for v in plain.variances()]}.get(weights, weights)
    for query, found in enumerate(detections):
        nearest = plain.nearest(features.pooled[query].double().numpy(), 4)
        assert [n.id for n in found.pixels.neighbours] == [id for id, _ in nearest]
        assert found.neighbours == found.pixels.neighbours[:2]
        assert found.scores["pooled"] == pytest.approx(np.mean([distance for _, distance in nearest[:2]]), rel=1e-5)
        pyramid = [level[query].numpy() for level in features.pyramid]
        distances, matches = plain.pixels(pyramid, [id for id, _ in nearest], used, mode, kappa)
        np.testing.assert_allclose(found.pixels.distances, distances, rtol=1e-4)
        np.testing.assert_array_equal(found.pixels.matches, matches)
        score_map = plain.score_map(distances, 1.5)
        assert (found.pixels.score_map.dtype, found.pixels.score_map.shape) == (np.float32, (32, 32))
        np.testing.assert_allclose(found.pixels.score_map, score_map, rtol=1e-4)
        assert found.scores["map"] == pytest.approx(score_map.max(), rel=1e-4)
        assert found.scores["both"] == pytest.approx(found.scores["pooled"] * found.scores["map"])


def test_evidence_points_at_the_nearest_pixel(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    images = decoded(1)
    (found,) = detect(gallery_path, backbone, images, gallery_neighbours=5, level_weights="equal")
    plain = PlainGallery(gallery_path)
    pyramid = [level[0].numpy() for level in backbone(images[0].pixels[None].copy()).pyramid]
    ids = [n.id for n in found.pixels.neighbours]
    distances, matches = plain.pixels(pyramid, ids, [1, 1, 1], "concat-nearest", 1)
    for x, y, pixel in [(0, 0, 0), (0.999, 0.0, 7), (0.3, 0.6, 4 * 8 + 2), (1.0, 1.0, 63)]:
        match = found.pixels.match(x, y)
        neighbour, place = divmod(matches[pixel, 0], 64)
        assert match.neighbour.id == ids[neighbour]
        assert (match.neighbour_x, match.neighbour_y) == ((place % 8 + 0.5) / 8, (place // 8 + 0.5) / 8)
        assert match.distance == pytest.approx(distances[pixel, 0], rel=1e-4)
    worst = found.pixels.worst()
    row, column = np.unravel_index(found.pixels.score_map.argmax(), (32, 32))
    assert (worst.x, worst.y) == ((column + 0.5) / 32, (row + 0.5) / 32)


def test_an_image_of_the_gallery_matches_itself(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    (strange,) = decoded(1)
    build(gallery_path, Path(strange.file.path).parent, backbone, replace=True)
    (found,) = detect(gallery_path, backbone, [strange], score_neighbours=1)
    normal = detect(gallery_path, backbone, decoded(3, seed=8), score_neighbours=1)
    assert found.scores["pooled"] < 1e-9
    assert found.scores["map"] < 1e-3 * min(detection.scores["map"] for detection in normal)


def test_detections_do_not_depend_on_the_batch(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    images = decoded(6)
    features = backbone(np.stack([image.pixels for image in images]))
    pooled = features.pooled.numpy()
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, backbone, SearchSettings(gallery_neighbours=4))
        together = detector.detect_features(pooled, features.pyramid)
        for query, found in enumerate(together):
            one = slice(query, query + 1)
            (alone,) = detector.detect_features(pooled[one], [level[one] for level in features.pyramid])
            assert alone.scores == pytest.approx(found.scores, rel=1e-5)
            assert alone.neighbours == found.neighbours
            np.testing.assert_allclose(alone.pixels.score_map, found.pixels.score_map, rtol=1e-5)
            np.testing.assert_array_equal(alone.pixels.matches, found.pixels.matches)


def test_a_small_pool_changes_no_result(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    images = decoded(5)
    roomy = detect(gallery_path, backbone, images, gallery_neighbours=3)
    with Gallery(gallery_path) as gallery:
        search = SearchSettings(gallery_neighbours=3)
        tight = Detector(gallery, backbone, search, map_memory=4 * backbone.settings.map_bytes).detect(images)
    for one, other in zip(roomy, tight, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-5)
        np.testing.assert_allclose(one.pixels.score_map, other.pixels.score_map, rtol=1e-5)


def test_maps_stay_in_memory_between_queries(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    images = decoded(2)
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, backbone, SearchSettings(gallery_neighbours=3))
        (first,) = detector.detect(images[:1])
        detector.detect(images[1:])
        read = detector.pixel_search.map_stats.misses
        (again,) = detector.detect(images[:1])
        stats = detector.pixel_search.map_stats
        assert same(first, again)
        assert stats.misses == read
        assert stats.hits >= 3
        assert stats.bytes_moved == read * gallery.settings.map_bytes


def test_maps_that_were_evicted_are_read_again(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    images = decoded(4)
    with Gallery(gallery_path) as gallery:
        search = SearchSettings(gallery_neighbours=2)
        tight = Detector(gallery, backbone, search, map_memory=1)
        assert tight.pixel_search.info()["slots"] == 4  # of the query that is searched, and of the next
        roomy = Detector(gallery, backbone, search).detect(images)
        assert all(same(a, b) for a, b in zip(tight.detect(images), roomy, strict=True))


def test_the_kernel_can_be_chosen(
    gallery_path: Path, backbone: Backbone, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = decoded(1)
    with Gallery(gallery_path) as gallery:
        default = Detector(gallery, backbone)
        assert default.kernel == choose_kernel("cpu")
        reference = Detector(gallery, backbone, kernel="reference")
        assert reference.kernel.backend == "reference"
        (one,), (other,) = default.detect(images), reference.detect(images)
        assert one.scores == pytest.approx(other.scores, rel=1e-5)
        np.testing.assert_array_equal(one.pixels.matches, other.pixels.matches)
        monkeypatch.setenv("SPADE_INDEX_KERNEL", "nonsense")
        with pytest.raises(InputError, match="the kernel must be one of reference, torch, native, triton, cupy"):
            Detector(gallery, backbone)


def test_the_same_query_gives_the_same_bits(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    one, other = (detect(gallery_path, backbone, decoded(3)) for _ in range(2))
    assert all(same(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["pooled", "map", "both"])
def test_the_image_score_can_be_chosen(gallery_path: Path, backbone: Backbone, decoded: Decoded, kind: str) -> None:
    images = decoded(2)
    for found in detect(gallery_path, backbone, images, image_score=kind):
        assert (found.kind, found.score, found.anomalous) == (kind, found.scores[kind], None)
    # Alone, as below: the last bits of features depend on the batch size on some processors.
    (alone,) = detect(gallery_path, backbone, images[1:], image_score=kind)
    score = alone.score
    for threshold, anomalous in ((score, False), (score * 0.999, True)):
        (found,) = detect(gallery_path, backbone, images[1:], image_score=kind, threshold=threshold)
        assert (found.threshold, found.anomalous) == (threshold, anomalous)


def test_maps_always_auto_and_never(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    images = decoded(6)
    always = detect(gallery_path, backbone, images, image_score="pooled")
    never = detect(gallery_path, backbone, images, maps="never")
    assert [found.scores for found in never] == [{"pooled": found.score} for found in always]
    assert all(found.pixels is None for found in never)
    threshold = sorted(found.score for found in always)[3]
    auto = detect(gallery_path, backbone, images, maps="auto", threshold=threshold)
    assert sum(found.pixels is not None for found in auto) == 2
    for found, full in zip(auto, always, strict=True):
        assert found.score == full.score
        assert (found.pixels is not None) == found.anomalous
        if found.pixels is not None:
            np.testing.assert_allclose(found.pixels.score_map, full.pixels.score_map, rtol=1e-5)
    none = detect(gallery_path, backbone, images, maps="auto", threshold=1e9)
    assert all(found.pixels is None for found in none)


def test_auto_maps_need_a_threshold(gallery_path: Path, backbone: Backbone) -> None:
    with Gallery(gallery_path) as gallery, pytest.raises(InputError, match=f"{gallery_path}.*calibrate"):
        Detector(gallery, backbone, SearchSettings(maps="auto"))


def test_a_gallery_smaller_than_k(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.remove([f"{number:03d}.png" for number in range(2, 12)])
    (found,) = detect(gallery_path, backbone, decoded(1), score_neighbours=50, gallery_neighbours=50)
    assert sorted(n.id for n in found.neighbours) == ["000.png", "001.png"]
    assert found.scores["pooled"] == pytest.approx(np.mean([n.distance for n in found.neighbours]))
    assert len(found.pixels.neighbours) == 2


def test_detections_name_their_snapshot(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    images = decoded(1)
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, backbone)
        (before,) = detector.detect(images)
        with GalleryWriter(gallery_path) as writer:
            writer.remove([before.neighbours[0].id])
        (still,) = detector.detect(images)
        assert (before.snapshot, still.snapshot) == (3, 3)
        assert same(before, still)
    (after,) = detect(gallery_path, backbone, images)
    assert after.snapshot == 4
    assert after.scores["pooled"] > before.scores["pooled"]
    with Gallery(gallery_path, snapshot=3) as gallery:
        assert same(Detector(gallery, backbone).detect(images)[0], before)


def test_backbones_weights_and_galleries_that_do_not_fit_are_refused(gallery_path: Path, backbone: Backbone) -> None:
    with Gallery(gallery_path) as gallery:
        with pytest.raises(SettingsMismatch, match="tiny-0, not tiny-1"):
            Detector(gallery, tiny_backbone(seed=1))
        with pytest.raises(InputError, match="3 levels"):
            Detector(gallery, backbone, SearchSettings(level_weights=(1.0, 2.0)))
    with GalleryWriter(gallery_path) as writer:
        writer.remove([row.id for row in writer.gallery.images()])
    with Gallery(gallery_path) as gallery, pytest.raises(GalleryError, match=f"{gallery_path}.*empty"):
        Detector(gallery, backbone)
