"""What became of feedback."""

from .reader import Gallery


def is_there(gallery: Gallery, id: str) -> bool:
    """Return whether an image, a tile of this picture, or known defects with this id are in the gallery."""
    if (told := gallery.catalog.defects_told(id)) is not None:
        return told[1]
    if gallery.settings.preprocessing.tile is not None:
        return bool(gallery.catalog.tiles_of(id, gallery.snapshot))
    return gallery.catalog.image_by_id(id, gallery.snapshot) is not None
