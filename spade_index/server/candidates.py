"""The galleries that an image may be routed to, and what is kept of them: own distances and descriptors (see `router`).

They are found in threads that are no event loop's, by opening galleries there. The engine uses what was found.
"""

import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from spade_index.errors import SpadeIndexError
from spade_index.gallery.reader import Gallery
from spade_index.method.router import HELD_BYTES, HeldDescriptors, OwnDistances, largest_group, why_not
from spade_index.settings import ExtractionSettings

from .galleries import Galleries
from .keys import Key
from .problems import Problem

UNUSABLE = (SpadeIndexError, Problem, OSError)  # of a gallery that is damaged, or gone

log = logging.getLogger("spade_index.server")


@dataclass(frozen=True)
class Look:
    """What was seen of a gallery when it was opened last."""

    written: Hashable  # see `roots`: another look is needed when it is another
    state: Hashable  # which gallery it is, and its snapshot
    settings: ExtractionSettings | None  # None: it cannot be asked


@dataclass(frozen=True)
class Candidate:
    """A gallery that an image may be routed to, at one snapshot."""

    state: Hashable
    settings: ExtractionSettings
    own: OwnDistances
    held: HeldDescriptors
    is_held: bool  # False: it is too large, so its index is asked


@dataclass(frozen=True, eq=False)
class Candidates:
    """Galleries of one backbone and preprocessing, by their names."""

    settings: ExtractionSettings
    galleries: Mapping[str, Candidate]


class CandidateFinder:
    """Finds candidates, and keeps what it found until a gallery has another snapshot. For one thread at a time."""

    def __init__(self, galleries: Galleries) -> None:
        self._galleries = galleries
        self._looks: dict[str, Look] = {}
        self._found: dict[str, Candidate] = {}

    def among(self, key: Key) -> Candidates:
        """Return the candidates of those galleries that a key may read. Raises Problem (409) if there is none."""
        names = self._galleries.names()
        for kept in (self._looks, self._found):
            for gone in kept.keys() - set(names):
                del kept[gone]
        settings = {}
        for name in names:
            if key.allows(name, write=False) and (seen := self._seen(name)) is not None:
                settings[name] = seen
        group = largest_group(settings)
        found = {name: self._candidate(name) for name in group}
        usable = {name: one for name, one in found.items() if one is not None and one.settings == settings[name]}
        if not usable:
            raise Problem(409, "of the galleries that may be read, there is none that can be chosen among: name one")
        return Candidates(settings[group[0]], usable)

    def _seen(self, name: str) -> ExtractionSettings | None:
        """Return the settings of a gallery; None if it cannot be asked."""
        try:
            written = self._galleries.written(name)
            look = self._looks.get(name)
            if look is None or look.written != written:
                with self._galleries.open(name) as gallery:
                    settings = gallery.settings if why_not(gallery) is None else None
                    look = self._looks[name] = Look(written, self._state(name, gallery), settings)
        except UNUSABLE as error:
            log.warning("no image is routed to gallery %r: %s", name, error)
            return None
        return look.settings

    def _candidate(self, name: str) -> Candidate | None:
        """Return a gallery as a candidate; None if it cannot be read."""
        known = self._found.get(name)
        if known is not None and known.state == self._looks[name].state:
            return known
        room = HELD_BYTES - sum(one.held.nbytes for other, one in self._found.items() if other != name)
        try:
            with self._galleries.open(name) as gallery:
                if why_not(gallery) is not None:  # it was another when it was seen
                    return None
                held = HeldDescriptors({name: gallery}, room)
                own = OwnDistances.of(gallery)
                state = self._state(name, gallery)
                found = self._found[name] = Candidate(state, gallery.settings, own, held, name in held)
        except UNUSABLE as error:
            log.warning("no image is routed to gallery %r: %s", name, error)
            return None
        return found

    def _state(self, name: str, gallery: Gallery) -> Hashable:
        return self._galleries.identity(name), gallery.catalog.meta("created"), gallery.snapshot
