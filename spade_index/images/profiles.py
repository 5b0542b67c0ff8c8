"""Colour profiles (ICC) that image files embed."""

import io
from functools import lru_cache

from PIL import Image, ImageCms

SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # mode of the pixels by a profile's colour space
KEPT = 16  # transforms


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image L, LA, RGB, RGBA or CMYK in sRGB, with its alpha.

    A profile that is sRGB's, does not fit the image, or cannot be used, changes nothing.
    """
    bands = image.split()
    alpha = bands[-1] if image.mode in ("LA", "RGBA") else None
    colours = image if alpha is None else Image.merge(image.mode[:-1], bands[:-1])
    transform = _transform(profile, colours.mode)
    if transform is None:
        return image
    try:
        found = transform.apply(colours)
    except Exception:  # as of a profile that cannot be opened
        return image
    del found.info["icc_profile"]  # sRGB's, which files that are written from it need not carry
    if alpha is not None:
        found.putalpha(alpha)
    return found


@lru_cache(KEPT)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what turns pixels of a mode into sRGB, or None if nothing needs to or can be done."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        fits = SPACES.get(opened.profile.xcolor_space.strip()) == mode
        if not fits or "srgb" in (opened.profile.profile_description or "").lower():
            return None
        return ImageCms.ImageCmsTransform(
            opened, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), mode, "RGB", flags=ImageCms.Flags.NOCACHE
        )
    except Exception:  # Pillow and LittleCMS raise errors of many kinds on damaged profiles
        return None
