"""Frozen settings: how features are made, how a gallery is indexed, and how it is searched.

Each default is stated here, once; the command line and its help take theirs from here.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from .errors import InputError, SettingsMismatch
from .exact import read_json, require_kinds

DEFAULT_BACKBONE = "wide_resnet50_2"
MODES = ("concat-nearest", "concat-bilinear", "per-level")
MAPS = ("always", "auto", "never")
PIXEL_PRECISIONS = ("float32", "fast")
LEVEL_WEIGHTS = ("inverse-variance", "equal")
SCALINGS = ("none", "root", "length", "channel")  # of a pixel's features in each level, before they are compared
BITS = (8, 10, 12, 14, 16)  # of pixels that are stored in 16
STORAGES = ("flat", "fp16", "sq8", "pq")  # of descriptors in inverted lists: float32, float16, int8, product quantizer
LAYOUTS = ("mvtec-ad", "mvtec-ad-2", "mvtec-loco", "visa", "btad", "mpdd", "ksdd2", "real-iad", "csv")  # of datasets
LARGEST_EDGE = 4096  # pixels of the backbone's input
LEAST_TILE, LARGEST_TILE = 16, 1 << 20  # pixels of the longer edge
OVERLAP = 0.25  # of neighbouring tiles, where pictures are cut and nothing else is said
MOST_OVERLAP = 0.75  # of two tiles; each pixel is then in up to 16 of them
BATCH_SIZE = 8  # images per batch; at some input sizes the last bits of features depend on it
WORKERS = 2  # decoding threads, for callers that do not say
FALSE_ALARMS = 0.05  # share of normal images that may be called anomalous
CALIBRATION_SAMPLE = 1000  # images to score at most
TUNE_SECONDS = 120.0  # that `tune` may take where nothing else keeps the processors busy
TUNE_FROM = 20  # images from which `build` tunes and calibrates

ImageScore = Literal["pooled", "map", "both"]
Maps = Literal["always", "auto", "never"]
Precision = Literal["float32", "bfloat16"]
IMAGE_SCORES: tuple[ImageScore, ...] = ("pooled", "map", "both")


@dataclass(frozen=True)
class DecodeLimits:
    """What decoding one image may cost; images come from anyone."""

    pixels: int = 100_000_000  # a small file can claim far more; half of it for formats that take much memory
    memory: int = 2048 << 20  # bytes of the process that decodes, beyond what it takes when it starts
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.pixels < 1 or self.memory < 64 << 20:
            raise InputError("decoding an image takes at least 1 pixel and 64 MiB of memory")
        if not 0 < self.seconds <= 86_400:
            raise InputError(f"the seconds to decode an image must be above 0 and at most 86400, not {self.seconds:g}")


@dataclass(frozen=True)
class Preprocessing:
    """Settings that turn an image into the backbone's input.

    By default the whole image is resized to `input_size` and nothing is cropped: defects occur at borders too.
    With `resize`, the shorter edge is resized to that length, and the centre is cropped (the paper: 256 and 224).
    """

    input_size: tuple[int, int] = (224, 224)  # height, width
    resize: int | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of values in 0..1
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    # How files become 8-bit RGB. Backbones that differ in this alone are equal: a gallery's own value decides.
    bits: int | None = field(default=None, compare=False)  # used of the 16 that a pixel is stored in; None: 16
    profiles: bool = field(default=True, compare=False)  # whether ICC profiles of files are applied
    pixel_range: tuple[float, float] | None = field(default=None, compare=False)  # black and white of more than 8 bits
    tile: int | None = field(default=None, compare=False)  # longer edge in pixels; None: not cut (see `images.tiles`)
    overlap: float = field(default=0.0, compare=False)  # of neighbouring tiles, at least: share of their edge
    whole: bool = field(default=False, compare=False)  # whether the whole picture is compared, too, beside its tiles

    def __post_init__(self) -> None:
        if min(self.input_size) < 16 or max(self.input_size) > LARGEST_EDGE:
            raise InputError(f"input size {self.input_size} is outside 16..{LARGEST_EDGE} pixels")
        if self.resize is not None and self.resize < max(self.input_size):
            raise InputError(
                f"resize {self.resize} is smaller than the crop {max(self.input_size)}: "
                "give a larger --resize or a smaller --input-size"
            )
        if self.tile is None and (self.overlap or self.whole):
            raise InputError("--overlap and --whole go with tiles: give --tile, too")
        if self.tile is not None and self.resize is not None:
            raise InputError("tiles show all of a picture: they cannot be combined with --resize, which crops")
        if self.tile is not None and not LEAST_TILE <= self.tile <= LARGEST_TILE:
            raise InputError(f"the edge of tiles must be in {LEAST_TILE}..{LARGEST_TILE} pixels, not {self.tile}")
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise InputError(f"the overlap of tiles must be in 0..{MOST_OVERLAP:g}, not {self.overlap}")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise InputError(f"means and standard deviations must be finite, not {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise InputError(f"standard deviations must be positive, not {self.std}")
        if self.bits is not None and self.bits not in BITS:
            raise InputError(f"bits must be one of {', '.join(map(str, BITS))}, not {self.bits}")
        if self.pixel_range is not None:
            if self.bits is not None:
                raise InputError("give either bits or a pixel range")
            low, high = self.pixel_range
            if not -math.inf < low < high < math.inf:
                raise InputError(f"the pixel range must be two finite numbers, the lower first, not {low:g} {high:g}")


# What galleries of earlier versions have and do not state.
UNSET = dict[str, Any](bits=None, pixel_range=None, profiles=False, tile=None, overlap=0.0, whole=False)


@dataclass(frozen=True)
class ExtractionSettings:
    """Everything that the features of an image depend on. A gallery records it; it is equal for all its images."""

    backbone: str
    weights: str  # digest of the weights (see `features.pretrained.weights_digest`)
    levels: tuple[str, ...]  # module names, the finest level first
    level_shapes: tuple[tuple[int, int, int], ...]  # channels, height, width of each level
    pooled_dim: int
    preprocessing: Preprocessing
    precision: Precision = "float32"
    stored_grid: int | None = None  # cells of the longer edge that levels are averaged to; None: not averaged

    def __post_init__(self) -> None:
        if self.stored_grid is not None and self.stored_grid < 1:
            raise InputError(f"the stored grid must have at least 1 cell, not {self.stored_grid}")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each level."""
        return [(height, width) for _, height, width in self.level_shapes]

    @property
    def map_bytes(self) -> int:
        """Size of one image's feature maps in float16, in bytes."""
        return 2 * sum(channels * height * width for channels, height, width in self.level_shapes)

    def to_json(self) -> str:
        """Return these settings as one line of JSON; equal settings give equal text."""
        return self._json

    @cached_property
    def _json(self) -> str:
        # Cached: a query compares it with the settings of every shard that it reads.
        values = asdict(self)
        if self.stored_grid is None:
            del values["stored_grid"]  # earlier versions did not state it
        own = values["preprocessing"]
        values["preprocessing"] = {name: own[name] for name in own if name not in UNSET or own[name] != UNSET[name]}
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ExtractionSettings":
        """Return the settings that `to_json` wrote."""
        values = read_json(text)
        values["preprocessing"] = Preprocessing(**(UNSET | _tuples(values["preprocessing"])))
        return cls(**_tuples(values))

    def require_equal(self, other: "ExtractionSettings", what: str) -> None:
        """Raise SettingsMismatch if `other` differs from these settings, which are the gallery `what`'s.

        The message names one field that differs.
        """
        follow = ("level_shapes", "pooled_dim")  # they follow from the other fields, so they are compared last
        for name in sorted((setting.name for setting in fields(self)), key=follow.__contains__):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise SettingsMismatch(
                    f"{what} was built with {_difference(name, mine, theirs)}: "
                    "query it with the same, or build another gallery"
                )


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the search, at image level and pixel level, and of the scores."""

    score_neighbours: int = 3  # K of the pooled score
    gallery_neighbours: int = 50  # K images whose pixels are searched
    pixel_neighbours: int = 1  # kappa
    mode: str = "concat-nearest"
    level_weights: str | tuple[float, ...] = "inverse-variance"  # of unscaled levels; scaled ones weigh the same
    scaling: str = "none"  # of a pixel's vector in each level: see `method.comparison`
    compared_levels: tuple[int, ...] | None = None  # numbers of stored levels, 0 the finest; None: by default
    grid: int | None = None  # cells of the longer edge that finer levels are averaged to; None: as stored
    window: int | None = None  # cells around a pixel's own place that it may match; None: all
    same_place: bool = False  # whether a tile is compared with tiles at its place in their pictures alone
    whole_weight: float = 0.5  # of whole pictures beside their tiles; 0: tiles alone, 1: whole ones alone
    pixel_precision: str = "float32"  # of the scan for candidates; distances are float32 either way
    subtract_neighbours: float = 0.0  # share of the neighbours' own score maps that is subtracted from the query's
    relative_score: bool = False  # whether the map score is divided by the mean of those of the neighbours themselves
    smoothing: float = 4.0  # sigma of the Gaussian on the score map, in pixels of the backbone's input
    top_share: float = 0.0  # share of the score map, its highest, whose mean is the map score; 0: the maximum
    image_score: ImageScore | None = None  # None: `mapped_score` where every image has a score map, else `pooled`
    mapped_score: ImageScore = "both"
    maps: Maps = "always"

    def __post_init__(self) -> None:
        require_kinds(self)
        for name in ("score_neighbours", "gallery_neighbours", "pixel_neighbours"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.pixel_neighbours > 10:
            raise InputError(f"pixel_neighbours must be at most 10, not {self.pixel_neighbours}")
        if not 0 <= self.smoothing <= LARGEST_EDGE:
            raise InputError(f"smoothing must be a finite number >= 0, {LARGEST_EDGE} at most, not {self.smoothing}")
        for name in ("subtract_neighbours", "top_share", "whole_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be in 0..1, not {getattr(self, name)}")
        if self.compared_levels is not None and not (
            self.compared_levels == tuple(sorted({*self.compared_levels}))
            and min(self.compared_levels, default=-1) >= 0
        ):
            raise InputError(f"compared levels must be ascending numbers >= 0, not {self.compared_levels}")
        if self.grid is not None and self.grid < 1:
            raise InputError(f"grid must be at least 1 cell, not {self.grid}")
        if self.window is not None and self.window < 0:
            raise InputError(f"window must be at least 0 cells, not {self.window}")
        _require_one_of("scaling", self.scaling, SCALINGS)
        _require_one_of("mode", self.mode, MODES)
        _require_one_of("maps", self.maps, MAPS)
        _require_one_of("pixel_precision", self.pixel_precision, PIXEL_PRECISIONS)
        if isinstance(self.level_weights, str):
            _require_one_of("level_weights", self.level_weights, LEVEL_WEIGHTS)
        elif not all(0 <= weight < math.inf for weight in self.level_weights) or not any(self.level_weights):
            raise InputError(f"level weights must be finite, not negative and not all 0, not {self.level_weights}")
        _require_one_of("mapped_score", self.mapped_score, IMAGE_SCORES)
        if self.image_score is not None:
            _require_one_of("image_score", self.image_score, IMAGE_SCORES)
            if self.image_score != "pooled" and self.maps != "always":
                raise InputError(
                    f"image score `{self.image_score}` needs every image's score map: "
                    "use --maps always, or --image-score pooled"
                )

    @property
    def effective_image_score(self) -> ImageScore:
        """The kind of score that is the image score."""
        return self.image_score_for(self.maps)

    def image_score_for(self, maps: Maps) -> ImageScore:
        """Return the image score where these score maps are computed: by default a score that every image has."""
        return self.image_score or (self.mapped_score if maps == "always" else "pooled")

    def calibration_key(self) -> str:
        """Return, as one line of JSON, the settings that a threshold depends on: all that change scores.

        Settings that earlier versions lack are left out at their defaults, so that their calibrations stay valid.
        """
        values = {name: value for name, value in asdict(self).items() if name not in UNSCORED}
        defaults = SearchSettings()
        stated = {name: value for name, value in values.items() if name in FIRST or value != getattr(defaults, name)}
        return json.dumps(stated, sort_keys=True)


UNSCORED = ("image_score", "mapped_score", "maps", "pixel_precision")  # settings that change no score
FIRST = ("score_neighbours", "gallery_neighbours", "pixel_neighbours", "mode", "level_weights", "smoothing")


@dataclass(frozen=True)
class IndexSettings:
    """Settings of building a FAISS index."""

    storage: str = "sq8"
    dimensions: int = 192  # principal components kept of longer descriptors; 0: all values. 10 times as fast as 1280
    recall: float = 0.99  # target that probes and candidates are tuned to, of the 50 nearest images
    memory: int = 4 << 30  # bytes that building may take

    def __post_init__(self) -> None:
        require_kinds(self)
        if self.storage not in STORAGES:
            raise InputError(f"the index storage must be one of {', '.join(STORAGES)}, not {self.storage!r}")
        if not 0 < self.recall <= 1:
            raise InputError(f"the recall to reach must be in (0, 1], not {self.recall}")
        if self.dimensions < 0:
            raise InputError(f"the index dimensions must not be negative (0: all), not {self.dimensions}")


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Return values read from JSON, with lists as tuples."""

    def freeze(value: Any) -> Any:
        return tuple(freeze(v) for v in value) if isinstance(value, list) else value

    return {name: freeze(value) for name, value in values.items()}


def _difference(name: str, mine: Any, theirs: Any) -> str:
    if name != "preprocessing":
        return f"{name} {mine}, not {theirs}"
    for setting in (setting.name for setting in fields(mine)):
        if getattr(mine, setting) != getattr(theirs, setting):
            return f"{setting} {getattr(mine, setting)}, not {getattr(theirs, setting)}"
    return name
