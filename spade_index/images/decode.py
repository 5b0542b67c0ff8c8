"""Decode image files, and resize them to the input of the backbone."""

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xxhash
from PIL import ExifTags, Image
from PIL import ImageFile as PillowFile

from spade_index.errors import ImageError
from spade_index.settings import DecodeLimits, Preprocessing

from .bands import require_bands, require_tiff_bands
from .damage import require_undamaged
from .deep_files import read_deep
from .files import ImageFile
from .formats import HEIF, Refused, open_image, takes_much_memory
from .geometry import Geometry, covered
from .profiles import to_srgb
from .scans import precision, require_few_scans
from .sound import require_sound
from .tiff import BIG_ENDIAN_BIG, described, tags_of
from .tiles import Piece, Tile, crop, pieces_of

MAX_PIXELS = DecodeLimits.pixels
THUMBNAIL_EDGE = 192  # pixels
THUMBNAIL_BYTES = 16 << 10  # of a JPEG that is its own thumbnail
ORIENTATION = ExifTags.Base.Orientation
TURNS = {  # that undo EXIF's orientations
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")  # modes
FRAMED = ("GIF", "PNG", "WEBP", "AVIF", HEIF)  # TIFF's pages are files of their own; what JPEG adds are previews
FRAMES = "it has several frames, of which the first is read: save the others as files of their own"
CLEAR = "all of it is transparent, so that it is read as white: save it without its alpha channel"
AS_STORED = Preprocessing()  # no range is known: pixels of 16 bits are read by their upper eight
# Properties of a JPEG that can be its own thumbnail: no EXIF, colour profile or comment.
PLAIN = frozenset({"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive", "progression"})

# `decode` refuses images that are too large itself, with a message that names the file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow's warnings of damaged files name neither the file nor a remedy.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class DecodedImage:
    """An image as the backbone takes it, with what a gallery stores beside its features."""

    file: ImageFile
    digest: bytes  # xxh3_128 of the file's bytes
    pixels: np.ndarray  # uint8 [H, W, 3]
    geometry: Geometry
    thumbnail: bytes  # a small JPEG; empty where none was asked for
    notice: str | None = None  # what a person should know about it, one line that names the file
    tile: Tile | None = None  # of a picture, which is `file`; None: the whole image

    @property
    def id(self) -> str:
        """Its name in a gallery."""
        return self.file.id if self.tile is None else Piece(self.tile.box, self.tile.whole).id(self.file.id)

    @property
    def contents(self) -> bytes:
        """The digest of its file."""
        return self.digest if self.tile is None else self.tile.contents

    @property
    def begins(self) -> bool:
        """Whether it is the first of its file: it is all of it, or the first piece."""
        return self.tile is None or self.tile.number == 0

    @property
    def ends(self) -> bool:
        """Whether it is the last of its file."""
        return self.tile is None or self.tile.number == self.tile.count - 1


@dataclass(frozen=True)
class Decoded:
    """An image, and what is to be known about it."""

    image: Image.Image  # as `decode` returns it
    plain: bool  # whether the bytes are a plain JPEG, which every viewer shows as that image
    notice: str | None  # see `DecodedImage`


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS, how: Preprocessing = AS_STORED) -> Image.Image:
    """Decode an image file's bytes to an upright 8-bit RGB image, in the range of pixels that `how` says.

    One band is grey, three are RGB (or YCbCr), four CMYK. One more is alpha if the file says so, and composed over
    white. Images with other bands are refused. Palettes become RGB, and so do colours with an ICC profile, by that. Of
    several pages or frames, the first is read. Pixels of more than 8 bits are read by the range of `how` (see
    `Preprocessing`).

    Raises ImageError naming the file if the bytes cannot be decoded, claim more than `max_pixels` pixels (half of that
    for formats whose decoding takes much memory), or have values outside of the range.
    """
    return decode_noted(data, name, max_pixels, how).image


def decode_noted(data: bytes, name: str, max_pixels: int, how: Preprocessing) -> Decoded:
    """Decode as `decode` does, and tell what is to be known about the image."""
    try:
        require_few_scans(data)
        require_sound(data)
        with open_image(data) as image:
            most = max_pixels // 2 if takes_much_memory(image) else max_pixels
            if image.width * image.height > most:
                raise Refused(f"{image.width}x{image.height} pixels is over the limit of {most:,}")
            return _read(image, data, name, how)
    except Refused as error:
        raise ImageError(f"{name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: refused, over the limit of {max_pixels:,} pixels") from error
    except Exception as error:  # Pillow raises exceptions of many kinds on damaged files: OSError, SyntaxError
        raise ImageError(f"{name}: {_reason(error, data)}") from error


def _read(image: PillowFile.ImageFile, data: bytes, name: str, how: Preprocessing) -> Decoded:
    """Decode an image that was just opened from `data`."""
    require_bands(image, data)
    doubt = require_undamaged(image, data)
    deep = read_deep(image, data)
    if deep is None:
        image.load()
    plain = image.format == "JPEG" and image.mode in ("L", "RGB") and image.info.keys() <= PLAIN
    read, notice = (image, None) if deep is None else deep.in_8_bits(how)
    rgb = _to_rgb(read, image.info.get("icc_profile") if how.profiles else None)
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    upright = rgb if turn is None else rgb.transpose(turn)
    if notice is None and image.format in FRAMED and getattr(image, "is_animated", False):
        notice = FRAMES
    if notice is None and read.mode in WITH_ALPHA and not read.getextrema()[-1][1]:  # type: ignore[index]
        notice = CLEAR
    notice = notice or doubt
    return Decoded(upright, plain, None if notice is None else f"{name}: {notice}")


def _reason(error: Exception, data: bytes) -> str:
    """Return in words why an image could not be decoded."""
    if not isinstance(error, Image.UnidentifiedImageError):
        return f"cannot be decoded ({' '.join((str(error) or repr(error)).split())})"
    if not data:
        return "cannot be decoded (not an image: it is empty)"
    if (bits := precision(data)) > 8:
        return f"a JPEG file of {bits} bits cannot be read: save it with 8 bits, or as PNG or TIFF with 16"
    if data.startswith(BIG_ENDIAN_BIG):
        return "a BigTIFF file in big-endian order cannot be read: save it in little-endian order, or as plain TIFF"
    if (tags := tags_of(data)) is None:
        return "cannot be decoded (not an image)"
    try:
        require_tiff_bands(tags)
    except Refused as refused:
        return str(refused)
    return f"{described(tags)} cannot be read: save it with 8 or 16 bits"


def preprocess(image: Image.Image, how: Preprocessing) -> tuple[np.ndarray, Geometry]:
    """Resize (and crop) an RGB image to the backbone's input: uint8 [H, W, 3], and the part of the image it shows."""
    height, width = how.input_size
    geometry = covered(image.width, image.height, how)
    filter_ = Image.Resampling.BICUBIC if how.interpolation == "bicubic" else Image.Resampling.BILINEAR
    resized = image.resize((width, height), filter_, box=geometry.box)
    # The same as np.asarray, in half the time.
    return np.frombuffer(resized.tobytes(), np.uint8).reshape(height, width, 3), geometry


def load(file: ImageFile, how: Preprocessing, max_pixels: int = MAX_PIXELS, *, thumbnail: bool = True) -> DecodedImage:
    """Read, decode and preprocess one image, whole. Raises ImageError."""
    data, opened = _read_file(file, how, max_pixels)
    image = opened.image
    pixels, geometry = preprocess(image, how)
    small = opened.plain and len(data) <= THUMBNAIL_BYTES and max(image.size) <= THUMBNAIL_EDGE
    shown = b"" if not thumbnail else data if small else _thumbnail(image)
    return DecodedImage(file, xxhash.xxh3_128_digest(data), pixels, geometry, shown, opened.notice)


def load_parts(file: ImageFile, how: Preprocessing, max_pixels: int = MAX_PIXELS) -> list[DecodedImage]:
    """Read, decode and preprocess what one file is to a gallery: an image, or the pieces of a picture in their order.

    Raises ImageError.
    """
    if how.tile is None:
        return [load(file, how, max_pixels)]
    image, digest, notice = load_picture(file, how, max_pixels)
    return cut(image, file, how, digest, notice)


def load_picture(
    file: ImageFile, how: Preprocessing, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, bytes, str | None]:
    """Read and decode one image; return it, the digest of its file, and its notice. Raises ImageError."""
    data, opened = _read_file(file, how, max_pixels)
    return opened.image, xxhash.xxh3_128_digest(data), opened.notice


def _read_file(file: ImageFile, how: Preprocessing, max_pixels: int) -> tuple[bytes, Decoded]:
    try:
        data = file.read()
    except OSError as error:
        raise ImageError(f"{file.path}: cannot be read ({error.strerror or error})") from error
    return data, decode_noted(data, file.path, max_pixels, how)


def cut(
    image: Image.Image,
    file: ImageFile,
    how: Preprocessing,
    digest: bytes,
    notice: str | None,
    numbers: Iterable[int] | None = None,
    *,
    thumbnails: bool = True,
) -> list[DecodedImage]:
    """Cut an RGB picture into its pieces, and resize each to the backbone's input. `digest` is that of the file.

    With `numbers`, only pieces with these, in their order (see `pieces_of`).
    """
    pieces = pieces_of(image.width, image.height, how)
    found = []
    for number in range(len(pieces)) if numbers is None else numbers:
        piece = pieces[number]
        part = image if piece.whole else crop(image, piece.box)
        pixels, _ = preprocess(part, how)
        tile = Tile(number, len(pieces), piece.box, digest, piece.whole)
        geometry = Geometry(image.width, image.height, *piece)
        told, shown = notice if number == 0 else None, _thumbnail(part) if thumbnails else b""
        found.append(DecodedImage(file, piece.digest(digest), pixels, geometry, shown, told, tile))
    return found


def _to_rgb(image: Image.Image, profile: object) -> Image.Image:
    """Return an image of 8 bits in RGB, from the colours of an ICC profile if there is one, and over white."""
    transparent = image.mode in WITH_ALPHA or "transparency" in image.info
    if isinstance(profile, bytes):
        if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") or (transparent and image.mode in ("L", "RGB")):
            image = image.convert("RGBA" if transparent else "RGB")
        image = to_srgb(image, profile)
    if transparent:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _thumbnail(image: Image.Image) -> bytes:
    small = image
    if (longest := max(image.size)) > THUMBNAIL_EDGE:
        width, height = (
            max(1, round(edge * THUMBNAIL_EDGE / longest)) for edge in image.size
        )  # at least 1: of a thin line too
        small = image.resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85, comment=b"")  # otherwise Pillow writes the original's
    return buffer.getvalue()
