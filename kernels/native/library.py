"""The compiled functions of the native search, and the structures that they take: nearest.h has the same ones."""

import ctypes
import importlib.machinery
import platform
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path

import numpy as np

SIDE = 16  # rows of a tile, and values of a vector
MOST_LEVELS, MOST_PARTS, MOST_WHOLE = 8, 16, 4
PORTABLE, AVX512, AMX = SETS = ("portable", "AVX-512", "AMX")  # instruction sets, by number as in nearest.cpp
VALUES, BYTES, NIBBLES, ROWS = range(4)  # codes of maps, as in nearest.h
CODE_OF_BITS = {8: BYTES, 4: NIBBLES}
HERE = Path(__file__).parent
# `portable` tests the method on any processor; the torch backend is faster.


class Part(Structure):
    """See nearest.h."""

    _fields_ = [
        ("stored", c_void_p),
        ("bytes", c_int64),
        ("code", c_int64),
        ("size", c_int64),
        ("whole", c_int64),
        ("of_row", c_int64),
        ("tables", c_void_p),
        ("parts", c_void_p),
        ("unit", c_float),
        ("height", c_int64),
        ("width", c_int64),
        ("channels", c_int64),
        ("rows", c_int64),
        ("columns", c_int64),
        ("scaling", c_int64),
        ("length", c_float),
        ("factor", c_float),
        ("mean", c_void_p),
        ("scale", c_void_p),
        ("first", c_int64),
    ]


class Level(Structure):
    """See nearest.h."""

    _fields_ = [
        ("pixels", c_int64),
        ("channels", c_int64),
        ("steps", c_int64),
        ("rows", c_int64),
        ("pool", c_void_p),
        ("first", c_int64),
        ("parts", c_int64),
        ("order", c_void_p),
        ("places", c_void_p),
        ("height", c_int64),
        ("width", c_int64),
        ("reach", c_int64),
        ("centre", c_void_p),
        ("factor", c_float),
        ("weight", c_float),
    ]


class Plan(Structure):
    """See nearest.h."""

    _fields_ = [
        ("levels", c_int64),
        ("type", c_int64),
        ("planes", c_int64),
        ("cells", c_int64),
        ("pixels", c_int64),
        ("k", c_int64),
        ("tolerance", c_float),
        ("tiny", c_float),
        ("parts", c_int64),
        ("part", POINTER(Part)),
        ("level", Level * MOST_LEVELS),
    ]


class Query(Structure):
    """See nearest.h."""

    _fields_ = [
        ("features", c_void_p * MOST_LEVELS),
        ("tiles", c_void_p * MOST_LEVELS),
        ("norms", c_void_p * MOST_LEVELS),
        ("moved", c_void_p),
        ("total", c_void_p),
    ]


class Found(Structure):
    """See nearest.h."""

    _fields_ = [
        ("best", c_void_p),
        ("kth", c_void_p),
        ("root", c_void_p),
        ("kept", c_void_p),
        ("count", c_int64),
        ("room", c_int64),
        ("full", c_int64),
    ]


class Wanted(Structure):
    """See nearest.h."""

    _fields_ = [("query", POINTER(Query)), ("found", POINTER(Found)), ("position", c_int64)]


class Slot(Structure):
    """See nearest.h."""

    _fields_ = [("number", c_int64), ("wanted", POINTER(Wanted)), ("count", c_int64)]


class ListCodes(Structure):
    """See nearest.h."""

    _fields_ = [("lowest", c_void_p), ("step", c_void_p), ("dim", c_int64)]


# An inverted list: see `List` in nearest.h. An array of them is filled at once.
LIST = np.dtype([("codes", np.uint64), ("keys", np.uint64), ("size", np.int64), ("centre", np.uint64)])
PROPOSED = np.dtype([("distance", np.float32), ("key", np.int64)], align=True)

SHARED = (Plan, Query, Found, Wanted, Slot, Part)  # in the order of spade_size


@cache
def library() -> ctypes.CDLL:
    """Return the compiled functions. Raises OSError if they were not compiled, or cannot be loaded."""
    files = [HERE / f"_nearest{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise OSError(f"{HERE}/_nearest was not compiled when spade_index was installed: that needs g++ 11")
    loaded = ctypes.CDLL(str(file))
    other = OSError(f"{file} was compiled from other sources: install spade_index again")
    plan, query = POINTER(Plan), POINTER(Query)
    for name, result, arguments in (
        ("size", c_int64, [c_int64]),
        ("instruction_sets", c_int64, []),
        ("workspace", c_int64, [c_int64, plan]),
        ("prepare", None, [c_int64, plan, c_void_p, query]),
        ("scan", None, [c_int64, plan, c_void_p, POINTER(Slot), *[c_int64] * 5]),
        (
            "measure",
            None,
            [c_int64, plan, c_void_p, query, POINTER(Found), c_int64, c_void_p, *[c_int64] * 2, *[c_void_p] * 2],
        ),
        ("window_bytes", c_int64, [c_int64, plan]),
        ("encode_level", None, [c_int64, c_void_p, *[c_int64] * 3, *[c_void_p] * 2]),
        ("decode_level", c_int64, [c_int64, c_void_p, *[c_int64] * 3, *[c_void_p] * 2]),
        ("moments", None, [c_int64, c_void_p, c_int64, c_void_p]),
        ("decode_rows", None, [c_int64, c_void_p, *[c_int64] * 5, *[c_void_p] * 4]),
        ("decode_map", None, [c_int64, plan, c_void_p, c_int64, POINTER(c_void_p)]),
        ("distances_to_rows", c_int64, [*[c_int64] * 3, c_void_p, *[c_int64] * 2, *[c_void_p] * 3]),
        (
            "nearest_in_lists",
            c_int64,
            [c_int64, c_void_p, c_int64, POINTER(ListCodes), *[c_void_p] * 2, *[c_int64] * 2, *[c_void_p] * 2],
        ),
        ("window", None, [c_int64, plan, c_void_p, query, c_void_p, *[c_int64] * 4, *[c_void_p] * 2]),
    ):
        function = getattr(loaded, f"spade_{name}", None)
        if function is None:
            raise other
        function.argtypes, function.restype = arguments, result
    sizes = [*map(ctypes.sizeof, SHARED), LIST.itemsize, ctypes.sizeof(ListCodes)]
    if [loaded.spade_size(number) for number in range(len(sizes))] != sizes:
        raise other
    return loaded


@cache
def instruction_sets() -> tuple[str, ...]:
    """Return the names in SETS that this processor has, the slowest first. Raises OSError like `library`."""
    found = library().spade_instruction_sets()
    return tuple(name for number, name in enumerate(SETS) if found >> number & 1)


def fastest() -> str:
    """Return the instruction set that is used. Raises OSError like `library`."""
    return instruction_sets()[-1]


def number(name: str | None) -> int:
    """Return the number of an instruction set, by default of the one that is used. Raises OSError like `library`."""
    return SETS.index(name or fastest())


def absence() -> str | None:
    """Return why the native search cannot run on this machine, in a few words; None if it can."""
    try:
        instruction_sets()
    except OSError as error:
        return str(error)
    return None


def hindrance() -> str | None:
    """Return why the native search is not the one to use on this machine, in a few words; None if it is."""
    if absence() is None and fastest() == PORTABLE:
        return f"this processor ({platform.machine()}) computes in bfloat16 neither with AMX nor with AVX-512"
    return absence()
