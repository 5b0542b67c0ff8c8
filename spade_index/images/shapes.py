"""Whether a mask has the shape of its image."""

from spade_index.errors import InputError

Size = tuple[float, float]  # width, height


def require_shape(path: str, size: Size, image: Size) -> None:
    """Raise InputError unless a mask of this size, width and height, has the shape of its image."""
    if not has_shape(size, image):
        there, wanted = (f"{width:g}x{height:g}" for width, height in (size, image))
        raise InputError(f"{path}: is {there} pixels, which is not the shape of its image of {wanted}")


def has_shape(size: Size, other: Size) -> bool:
    """Return whether one size is the other, made larger or smaller, but for rounding to whole pixels."""
    (small_width, small_height), (width, height) = sorted((size, other))
    return all(
        abs(ours - theirs) < 1
        for ours, theirs in ((small_width * height / width, small_height), (small_height * width / height, small_width))
    )
