"""The foreground of a gallery's images, where these show a product at the same place before a plain background.

A pixel's distance is that of its colour to the median colour of its image's border, in the mean over a sample of
images. Otsu's threshold (1979) splits the distances into background and foreground. There is a clear foreground where
almost all of the border is background, the foreground is much farther than the background, and few pixels lie between
the two. Of a texture, or of products that lie anywhere, that is not so.
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from spade_index.errors import InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.reader import Gallery
from spade_index.images.interest import RegionOfInterest
from spade_index.wording import number_of, too_few

SAMPLE = 64  # images
LEAST = 3  # images; the foreground of fewer says nothing about others
EDGE = 192  # pixels of the region's longer edge
BORDER = 0.03  # of the shorter edge: how wide the border is
BORDER_OUTSIDE = 0.8  # share of the border that is background, at least
FARTHER = 4.0  # mean distance of the foreground, in those of the background, at least
BETWEEN = 0.1  # share of pixels in the middle third between the two means, at most
LEAST_AREA, MOST_AREA = 0.01, 0.95  # of the foreground
SPECK = 0.002  # share of the picture; smaller parts are dropped
MARGIN = 0.02  # of the longer edge, by which the foreground is grown: features see their surroundings
LEVELS = 256  # of distances, between which Otsu's threshold is looked for
NOISE = 1.0  # grey levels that are added to distances: those of a background without any noise are 0


def foreground(gallery: Gallery) -> RegionOfInterest:
    """Return the region of interest that holds the foreground of a gallery's images.

    Raises InputError if there is no clear foreground, or pictures are cut into tiles.
    """
    if gallery.settings.preprocessing.tile is not None:
        raise InputError(f"{gallery.path}: the foreground of tiles cannot be found: give a mask or polygons")
    distances = _mean_distances(gallery)
    threshold = otsu(distances)
    above = distances > threshold
    reason = _unclear(distances, above)
    if reason is not None:
        raise InputError(f"{gallery.path}: no clear foreground ({reason}): give a mask or polygons")
    return RegionOfInterest(_whole(above), f"foreground of {number_of(min(SAMPLE, len(gallery)), 'image')}")


def own_foreground(image: np.ndarray) -> np.ndarray | None:
    """Return the foreground of one image by the same rule, bool [H, W]; None where there is no clear one.

    Args:
        image: uint8 [H, W, 3].
    """
    shown = Image.fromarray(image)
    scale = min(1.0, EDGE / max(shown.size))
    size = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
    distances = _distances_to_border(shown.resize(size, Image.Resampling.BILINEAR))
    above = distances > otsu(distances)
    if _unclear(distances, above) is not None:
        return None
    found = Image.fromarray(_whole(above)).resize(shown.size, Image.Resampling.NEAREST)
    return np.asarray(found)


def otsu(values: np.ndarray) -> float:
    """Return the threshold that splits values into two groups with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, LEVELS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = (counts * centres).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    between = np.nan_to_num(between)
    best = np.flatnonzero(between == between.max())  # no value lies between two groups that are far apart
    return float(edges[1 + int(best.mean())])


def _mean_distances(gallery: Gallery) -> np.ndarray:
    """Return the mean distances to the border's colour over a sample of images, float64 [H, W]."""
    rows = gallery.sample(SAMPLE)
    if len(rows) < LEAST:
        raise InputError(f"{gallery.path}: {too_few(len(rows), 'image')} to find a foreground: add {LEAST} at least")
    shape = sorted(row.height / row.width for row in rows)[len(rows) // 2]
    size = max(1, round(EDGE / max(1.0, shape))), max(1, round(EDGE * min(1.0, shape)))  # width, height
    total = np.zeros((size[1], size[0]))
    for row in rows:
        thumbnail = _thumbnail(gallery, row)
        total += _distances_to_border(thumbnail.resize(size, Image.Resampling.BILINEAR))
    return total / len(rows)


def _distances_to_border(image: Image.Image) -> np.ndarray:
    """Return the distance of each pixel's colour to the median colour of the border, float64 [H, W]."""
    pixels = np.asarray(image).astype(np.float64)
    colour = np.median(pixels[_border(pixels.shape[:2])], axis=0)
    distances: np.ndarray = np.sqrt(((pixels - colour) ** 2).sum(2))
    return distances


def _thumbnail(gallery: Gallery, row: ImageRow) -> Image.Image:
    try:
        return Image.open(io.BytesIO(gallery.thumbnail(row)), formats=["JPEG"]).convert("RGB")
    except Exception as error:  # Pillow raises exceptions of many kinds; features that were added have any thumbnail
        raise InputError(f"{gallery.path}: the thumbnail of {row.id!r} is no JPEG: give a mask or polygons") from error


def _border(shape: tuple[int, ...]) -> np.ndarray:
    """Return the border of a picture, bool [H, W]."""
    width = max(1, round(BORDER * min(shape)))
    border = np.ones(shape, bool)
    border[width:-width, width:-width] = False
    return border


def _unclear(distances: np.ndarray, above: np.ndarray) -> str | None:
    """Return why what lies above the threshold is no clear foreground, or None."""
    if not above.any() or above.all():
        return "the images are of one colour"
    far, near = float(distances[above].mean()), float(distances[~above].mean())
    outside = float((~above)[_border(above.shape)].mean())
    if outside < BORDER_OUTSIDE:
        return f"only {outside:.0%} of the border is background"
    if far + NOISE < FARTHER * (near + NOISE):
        return "it differs too little from the border"
    third = (far - near) / 3
    between = float(((distances > near + third) & (distances < far - third)).mean())
    if between > BETWEEN:
        return f"{between:.0%} of the pixels are between foreground and background"
    if not LEAST_AREA <= above.mean() <= MOST_AREA:
        return f"it is {above.mean():.1%} of the picture"
    return None


def _whole(above: np.ndarray) -> np.ndarray:
    """Return a foreground without holes and specks, with a margin, bool [H, W]."""
    filled = ndimage.binary_fill_holes(above)
    parts, _ = ndimage.label(filled)
    large = np.bincount(parts.ravel()) >= SPECK * above.size
    large[0] = False
    kept = large[parts]
    grown: np.ndarray = ndimage.binary_dilation(kept, iterations=max(1, round(MARGIN * max(above.shape))))
    return grown
