"""Route the images of a batch, in the thread that computes, once their features are there."""

import logging
from collections.abc import Sequence
from http import HTTPStatus

import numpy as np

from spade_index.errors import GalleryError
from spade_index.method.router import Route, RouterSettings, first_of, why_not

from .asks import Ask, fail, fail_logged, question
from .candidates import UNUSABLE, Candidates
from .galleries import Galleries, Served
from .problems import Problem

log = logging.getLogger("spade_index.server")


def one_of(among: Candidates, galleries: Galleries) -> Served:
    """Return the first of some galleries that can be used: all have its backbone. Raises Problem (503)."""
    for name in among.galleries:
        if (served := _used(name, among, galleries)) is not None:
            return served
    raise _changed()


def settled(asks: Sequence[tuple[Ask, Served]], pooled: np.ndarray, galleries: Galleries) -> list[Served | None]:
    """Return the gallery of each image of a batch, whose descriptors are float32 [B, D].

    None for an image that is answered: it belongs to none of its galleries, or cannot be routed.
    """
    owners: list[Served | None] = [served for _, served in asks]
    for among in dict.fromkeys(ask.among for ask, _ in asks):
        if among is None:
            continue
        places = [place for place, (ask, _) in enumerate(asks) if ask.among is among]
        try:
            routes = _routes(among, pooled[places], galleries)
        except Exception as error:
            for place in places:
                owners[place] = None
                fail_logged(asks[place][0], error)
        else:
            for place, route in zip(places, routes, strict=True):
                owners[place] = _owner(asks[place][0], among, route, galleries)
    return owners


def _routes(among: Candidates, pooled: np.ndarray, galleries: Galleries) -> list[Route]:
    """Return the routes of images among the galleries that can be asked. Raises Problem (503) if there is none."""
    distances: dict[str, list[float]] = {}
    for name, candidate in among.galleries.items():
        if candidate.is_held:
            distances |= candidate.held.nearest(pooled)
        elif (served := _used(name, among, galleries)) is not None:
            try:
                distances[name] = [near[0].distance for near in served.gallery.nearest(pooled, 1)]
            except GalleryError as error:
                log.warning("gallery %r is not asked: %s", name, error)
                galleries.reopen(name)
    if not distances:
        raise _changed()
    own, settings = {name: one.own for name, one in among.galleries.items()}, RouterSettings()
    found = [{name: of[query] for name, of in distances.items()} for query in range(len(pooled))]
    return [first_of(of, own, settings) for of in found]


def _owner(ask: Ask, among: Candidates, route: Route, galleries: Galleries) -> Served | None:
    """Return the gallery of an image; None if it is answered."""
    ask.route = route
    if not route.taken:
        ask.answer.set_result(None)
        return None
    ask.gallery = route.gallery
    try:
        served = galleries.use(route.gallery)
        if served.gallery.settings != among.settings:
            raise _changed()
        served.detector.require_answerable(question(ask, served))
    except Problem as error:
        fail(ask, _changed() if error.status_code == HTTPStatus.NOT_FOUND else error)
        return None
    except Exception as error:
        fail_logged(ask, error)
        return None
    return served


def _used(name: str, among: Candidates, galleries: Galleries) -> Served | None:
    """Return a gallery, open; None if it cannot be used, or is another by now."""
    try:
        served = galleries.use(name)
    except UNUSABLE as error:
        log.warning("gallery %r is not asked: %s", name, error)
        return None
    is_same = served.gallery.settings == among.settings and why_not(served.gallery) is None
    return served if is_same else None


def _changed() -> Problem:
    return Problem(503, "the galleries to choose among have changed meanwhile", retry_after=1)
