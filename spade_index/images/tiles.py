"""Large pictures as grids of tiles. Each tile is an image of a gallery, with its place in the picture in its id.

Tiles are cut before they are resized to the backbone's input, so a small defect keeps its pixels. They are spread
evenly, and overlap by at least the share that was asked for. Those at the picture's edges reach over them by half of
that; what they see there is the picture, mirrored. So every place lies well inside of a tile: at the edges of its
input, the padding of a backbone's convolutions makes its features differ, which would be taken for defects.

With two scales, the last piece of a picture is the picture itself, resized to the input as a whole.
"""

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import xxhash
from PIL import Image

from spade_index.settings import Preprocessing

MARK = "@"  # before the place of a tile, in ids
WHOLE = "whole"  # in place of it, in the id of a whole picture beside its tiles
PLACE = re.compile(r"(.*)@(?:(-?\d+),(-?\d+)|whole)", re.DOTALL)

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the upright picture


@dataclass(frozen=True)
class Tile:
    """The place of a tile in its picture."""

    number: int  # in raster order
    count: int  # of the picture's tiles
    box: Box
    contents: bytes  # digest of the picture's file
    whole: bool = False  # it is the picture itself, beside its tiles


class Piece(NamedTuple):
    """A part of a picture that is a row of a gallery: a tile, or the whole picture beside its tiles."""

    box: Box
    whole: bool = False

    def id(self, picture: str) -> str:
        """Return its id, from that of its picture."""
        return f"{picture}{MARK}{WHOLE}" if self.whole else tile_id(picture, self.box)

    def digest(self, contents: bytes) -> bytes:
        """Return its digest, from that of its picture's file."""
        return _digest(contents, WHOLE) if self.whole else tile_digest(contents, self.box)


def pieces_of(width: int, height: int, how: Preprocessing) -> list[Piece]:
    """Return what a picture is cut into: its tiles in raster order, and itself where there are two scales."""
    tiles = [Piece(box) for box in tile_boxes(width, height, how)]
    return [*tiles, Piece(_all_of(width, height), whole=True)] if how.whole else tiles


def tile_boxes(width: int, height: int, how: Preprocessing) -> list[Box]:
    """Return the boxes of a picture's tiles, in raster order; the picture itself where it is no larger than a tile.

    Args:
        width: of the upright picture, in pixels.
        height: likewise.
        how: says the edge of a tile and the share of it that two neighbours have in common.

    Raises:
        ValueError: pictures are not tiled.
    """
    across, down = tile_size(how)
    columns, rows = _starts(width, across, how.overlap), _starts(height, down, how.overlap)
    right, bottom = min(width, across), min(height, down)
    return [(left, top, left + right, top + bottom) for top in rows for left in columns]


def own_part(box: Box, width: int, height: int, how: Preprocessing) -> Box:
    """Return the part of a picture that lies deeper in this tile than in any other. These parts make up the picture."""
    if how.tile is None:
        return box
    across, down = tile_size(how)
    left, right = _own(int(box[0]), width, across, how.overlap)
    top, bottom = _own(int(box[1]), height, down, how.overlap)
    return left, top, right, bottom


def _own(start: int, length: int, tile: int, overlap: float) -> tuple[float, float]:
    """Return where the part begins and ends that is a tile's own, along an edge: in the middle of what two share."""
    starts = _starts(length, tile, overlap)
    if start not in starts:  # of a picture that was cut in another way
        return max(0, start), min(length, start + tile)
    number = starts.index(start)
    low = 0.0 if number == 0 else (starts[number - 1] + tile + start) / 2
    high = float(length) if number == len(starts) - 1 else (start + tile + starts[number + 1]) / 2
    return low, high


def crop(image: Image.Image, box: Box) -> Image.Image:
    """Return a part of an RGB image, in whole pixels; what lies beyond its edges is mirrored."""
    left, top, right, bottom = (int(edge) for edge in box)
    inside = (max(0, left), max(0, top), min(image.width, right), min(image.height, bottom))
    part = image.crop(inside)
    if inside == (left, top, right, bottom):
        return part
    beyond = ((inside[1] - top, bottom - inside[3]), (inside[0] - left, right - inside[2]), (0, 0))
    return Image.fromarray(np.pad(np.asarray(part), beyond, mode="symmetric"))


def tile_size(how: Preprocessing) -> tuple[int, int]:
    """Return the width and height of a tile in pixels: its longer edge is `how.tile`, its shape that of the input."""
    if how.tile is None:
        raise ValueError("pictures are not tiled")
    height, width = how.input_size
    longer = max(how.input_size)
    return max(1, round(how.tile * width / longer)), max(1, round(how.tile * height / longer))


@cache
def _starts(length: int, tile: int, overlap: float) -> tuple[int, ...]:
    """Return where tiles begin along an edge of a picture, the first before it and the last so that it ends beyond."""
    if length <= tile:
        return (0,)
    beyond = round(overlap * tile / 2)
    room = length + 2 * beyond - tile
    count = 1 + math.ceil(room / max(1.0, (1 - overlap) * tile))
    return tuple(round(number * room / (count - 1)) - beyond for number in range(count))


def tile_id(picture: str, box: Box) -> str:
    """Return the id of a picture's tile: `PICTURE@LEFT,TOP`."""
    return f"{picture}{MARK}{int(box[0])},{int(box[1])}"


def picture_of(id: str) -> str:
    """Return the id of the picture that a piece is of; of an id that is no piece's, that id."""
    found = PLACE.fullmatch(id)
    return id if found is None else found[1]


def part_ids(id: str, width: int, height: int, how: Preprocessing) -> list[str]:
    """Return the ids of what an image is in a gallery: its own, or those of a picture's pieces in their order."""
    if how.tile is None:
        return [id]
    return [piece.id(id) for piece in pieces_of(width, height, how)]


def tile_range(picture: str) -> tuple[str, str]:
    """Return the ids, in their order, from which and before which those of a picture's pieces are.

    Those of pieces of pictures whose names begin with `PICTURE@` are among them.
    """
    return f"{picture}{MARK}", f"{picture}{chr(ord(MARK) + 1)}"


def box_of(id: str, width: int, height: int, how: Preprocessing) -> Box:
    """Return the box of the tile with this id in a picture of this size; of any other image, all of it."""
    return piece_of(id, width, height, how).box


def piece_of(id: str, width: int, height: int, how: Preprocessing) -> Piece:
    """Return the piece with this id of a picture of this size; of any other image, all of it."""
    found = PLACE.fullmatch(id) if how.tile is not None else None
    if found is None or found[2] is None:
        return Piece(_all_of(width, height), whole=found is not None)
    across, down = tile_size(how)
    left, top = int(found[2]), int(found[3])
    return Piece((left, top, left + min(width, across), top + min(height, down)))


def _all_of(width: int, height: int) -> Box:
    return (0.0, 0.0, float(width), float(height))


def tile_digest(digest: bytes, box: Box) -> bytes:
    """Return the digest of a tile, from that of its picture's file."""
    return _digest(digest, ",".join(str(int(edge)) for edge in box))


def _digest(contents: bytes, place: str) -> bytes:
    return xxhash.xxh3_128_digest(contents + place.encode())
