"""The answer of a query of no gallery in particular, as `wire` states those of all others."""

from pydantic.dataclasses import dataclass

from .wire import ResultInfo


@dataclass(frozen=True)
class RouteInfo:
    """Where an image belongs: the gallery that answers, or, where `taken` is false, the nearest one."""

    gallery: str
    taken: bool
    distance: float  # squared, between pooled descriptors, to the gallery's nearest image
    share: float  # of the gallery's own images that are nearer to another of them
    reaches: float | None  # distance, as a multiple of the gallery's largest own distance; None: that is 0


@dataclass(frozen=True)
class RoutedInfo:
    """The route of one image, and the result of its gallery; None where it belongs to none of them."""

    image: str | None
    route: RouteInfo
    result: ResultInfo | None


@dataclass(frozen=True)
class RoutedAnswer:
    """Routes and results in the order of the images."""

    results: tuple[RoutedInfo, ...]
