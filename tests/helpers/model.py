"""A plain dictionary as a model of a gallery, and checks of its answers against freshly computed features."""

from functools import cache

import numpy as np

from spade_index.gallery import Gallery
from spade_index.gallery.store.moments import image_moments, moments_variance
from spade_index.images import load

from helpers.tiny import brute_force, image_file, plain, png, tiny_backbone

BACKBONE = tiny_backbone()
QUERIES = np.random.default_rng(3).normal(size=(2, 12)).astype(np.float32)

Model = dict[str, int]  # id -> contents


@cache
def contents(number: int) -> bytes:
    """Return the file of an image with these contents."""
    return png(number)


@cache
def features(number: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return pooled [D] and float16 maps [H*W, C] of an image with these contents."""
    image = load(image_file("x", contents(number)), BACKBONE.settings.preprocessing)
    found = BACKBONE(np.stack([image.pixels]))
    return found.pooled[0].numpy(), [level[0].half().numpy() for level in found.pyramid]


@cache
def moments(number: int) -> list[list[int]]:
    """Return the moments of the maps of an image with these contents."""
    return [image_moments(values) for values in features(number)[1]]


def check(gallery: Gallery, model: Model) -> None:
    """Check that a gallery holds the model's images, and that its answers follow from their features."""
    rows = {row.id: row for row in gallery.images()}
    assert set(rows) == set(model)
    assert len(gallery) == len(model)
    pooled = {id: features(number)[0] for id, number in model.items()}
    for k in (2, 20):
        found = gallery.nearest(QUERIES, k)
        assert [plain(n) for n in found] == [brute_force(query, pooled, k) for query in QUERIES]
    for id, row in rows.items():
        for read, computed in zip(gallery.maps([row.key]), features(model[id])[1], strict=True):
            np.testing.assert_array_equal(read[0], computed)
    for level, variance in enumerate(gallery.level_variances()):
        of_level = [moments(number)[level] for number in model.values()]
        assert variance == (moments_variance(*map(sum, zip(*of_level, strict=True))) if model else 1.0)
