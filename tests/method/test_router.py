"""Images are routed to the gallery that they belong to, or to none."""

from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import InputError
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.router import HeldDescriptors, OwnDistances, Router, RouterSettings, largest_group, why_not

from helpers.tiny import new_image, random_images, tiny_backbone

OWN = OwnDistances(np.array([1.0, 2.0, 2.0, 4.0]))


@pytest.mark.parametrize(("distance", "share"), [(0.5, 0), (1, 0), (1.5, 0.25), (2, 0.25), (3, 0.75), (9, 1)])
def test_the_share_counts_own_distances_that_are_smaller(distance: float, share: float) -> None:
    assert OWN.share(distance) == share


def test_the_reach_is_the_largest_own_distance() -> None:
    assert OWN.reaches(8) == 2
    same = OwnDistances(np.zeros(3))
    assert (same.reaches(0), same.reaches(1e-9)) == (0, np.inf)


def test_own_distances_leave_out_the_image_itself(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        rows = list(gallery.images())
        pooled = gallery.pooled(rows).astype(np.float64)
        between = ((pooled[:, None] - pooled[None]) ** 2).sum(2)  # [n, n]
        np.fill_diagonal(between, np.inf)
        np.testing.assert_allclose(OwnDistances.of(gallery).ascending, np.sort(between.min(1)), rtol=1e-5)


def test_frames_that_are_alike_do_not_shorten_the_reach(tmp_path: Path) -> None:
    settings = tiny_backbone().settings
    whole = random_images(settings, 6)
    frames = [
        new_image(f"again/{number}", image.stored.pooled + np.float32(1e-3), image.stored.maps)
        for number, image in enumerate(whole)
    ]
    reach = []
    for name, images in (("whole", whole), ("frames", [*whole, *frames])):
        with GalleryWriter(tmp_path / name, settings) as writer:
            writer.add_features(images)
        with Gallery(tmp_path / name) as gallery:
            reach.append(OwnDistances.of(gallery).ascending[-1])
    assert reach[1] == pytest.approx(reach[0], rel=0.01)


def test_own_images_are_taken_and_others_are_not(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        router = Router({"one": gallery})
        own = gallery.pooled(list(gallery.images())[:1])
        near, far = router.route(np.concatenate([own, own + 1000]))
    assert (near.gallery, near.taken, near.share) == ("one", True, 0)
    assert (far.gallery, far.taken, far.share) == ("one", False, 1)
    assert far.reaches > 4


def test_settings_and_groups_are_checked() -> None:
    with pytest.raises(InputError, match="reach"):
        RouterSettings(reach=0)
    assert largest_group({}) == []
    assert largest_group({"c": "x", "b": "y", "a": "x"}) == ["a", "c"]  # type: ignore[dict-item]
    assert largest_group({"b": "x", "a": "y"}) == ["a"]  # type: ignore[dict-item]


def test_a_gallery_that_can_be_asked_has_no_reason_against_it(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        assert why_not(gallery) is None


def test_held_descriptors_give_the_distances_of_the_index(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        own = gallery.pooled(list(gallery.images()))
        pooled = np.concatenate([own[:2], own[:3] + np.float32(0.1)])
        held = HeldDescriptors({"one": gallery})
        assert "one" in held
        expected = [near[0].distance for near in gallery.nearest(pooled, 1)]
        np.testing.assert_allclose(held.nearest(pooled)["one"], expected, rtol=1e-5)
        assert held.nearest(own[:1])["one"] == [0]


def test_large_galleries_are_not_held(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        held = HeldDescriptors({"one": gallery}, most=8)
        assert "one" not in held
        assert held.nearest(gallery.pooled(list(gallery.images())[:1])) == {}
