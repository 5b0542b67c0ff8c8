"""What became of images that feedback added."""

from .reader import Gallery


def is_there(gallery: Gallery, id: str) -> bool:
    """Return whether an image, or a tile of this picture, is in the gallery."""
    if gallery.settings.preprocessing.tile is not None:
        return bool(gallery.catalog.tiles_of(id, gallery.snapshot))
    return gallery.catalog.image_by_id(id, gallery.snapshot) is not None
