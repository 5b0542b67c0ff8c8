"""Operations on a gallery of tiny images, and the states that it may be in if one is interrupted."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from spade_index.errors import GalleryNotFound
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.decoding_here import HERE
from helpers.model import BACKBONE, Model, check, contents, features
from helpers.tiny import files_of, image_file, parts_of

IDS = [f"{number:02d}.png" for number in range(24)]
WEIGHTS = {"build": 1, "add": 3, "replace": 3, "remove": 3, "restore": 3, "index": 2, "compact": 4, "repair": 1}


@dataclass(frozen=True)
class State:
    """The contents of a gallery; an image is a number that no other image has."""

    live: Model
    removed: Model = field(default_factory=dict)  # contents of each id when it was last removed

    def offered(self) -> Model:
        """Return the images that can be restored."""
        return {id: number for id, number in self.removed.items() if id not in self.live}

    def plus(self, images: Model) -> "State":
        gone = {id: self.live[id] for id in images if id in self.live}
        return State(self.live | images, self.removed | gone)

    def minus(self, ids: list[str]) -> "State":
        rest = {id: number for id, number in self.live.items() if id not in ids}
        return State(rest, self.removed | {id: self.live[id] for id in ids})


@dataclass(frozen=True)
class Operation:
    """One call of a writer, in values that can be sent to another process as JSON."""

    kind: str
    rows: int  # of a shard
    images: Model = field(default_factory=dict)  # to be added
    ids: list[str] = field(default_factory=list)  # to be removed or restored

    def __str__(self) -> str:
        return f"{self.kind} {self.images or self.ids or ''}".strip()

    def perform(self, path: Path) -> None:
        """Open the gallery and call the writer. Raises what that raises."""
        creates = self.kind == "build"
        with GalleryWriter(path, BACKBONE.settings if creates else None, maps="float16" if creates else None) as writer:
            self.perform_with(writer)

    def perform_with(self, writer: GalleryWriter) -> None:
        """Call a writer that is open."""
        writer.shard_rows = self.rows
        files = [image_file(id, contents(number), mtime_ns=number) for id, number in self.images.items()]
        actions: dict[str, Callable[[], object]] = {
            "build": lambda: (self._add(writer, files), writer.index_is_stale() and writer.build_index()),
            "add": lambda: self._add(writer, files),
            "replace": lambda: self._add(writer, files),
            "remove": lambda: writer.remove(self.ids),
            "restore": lambda: writer.restore(self.ids),
            "index": writer.build_index,
            "compact": writer.compact,
            "repair": writer.repair,
        }
        actions[self.kind]()

    def _add(self, writer: GalleryWriter, files: list) -> None:
        writer.add(files, BACKBONE, replace=self.kind == "replace", batch_size=1, decoders=HERE)

    def states(self, before: State) -> list[State]:
        """Return the states before, after every commit, and at the end."""
        if self.kind == "remove":
            return [before, before.minus(self.ids)]
        if self.kind == "restore":
            return [before, before.plus({id: before.removed[id] for id in self.ids})]
        if self.kind == "compact":
            return [before, State(before.live)]
        admitted = [
            (id, number)
            for id, number in self.images.items()
            if id not in before.live or (self.kind == "replace" and before.live[id] != number)
        ]
        states = [before]
        for start in range(0, len(admitted), self.rows):
            states.append(states[-1].plus(dict(admitted[start : start + self.rows])))
        return states

    def is_done(self, state: State, before: State) -> bool:
        """Return whether calling it again would be an error of the caller's."""
        return self.kind in ("remove", "restore") and state == self.states(before)[-1]


def draw(rng: random.Random, state: State, rows: int, fresh: int) -> Operation:
    """Draw a random valid operation; `fresh` and the numbers after it are contents that no image has had."""
    possible = WEIGHTS
    if len(state.live) < 4:
        possible = {"build": 1}
    elif not state.offered():
        possible = {kind: weight for kind, weight in WEIGHTS.items() if kind != "restore"}
    kind = rng.choices(list(possible), list(possible.values()))[0]
    operation = Operation(kind, rows)
    live = list(state.live)
    if kind == "remove":
        return replace(operation, ids=rng.sample(live, rng.randint(1, 3)))
    if kind == "restore":
        offered = list(state.offered())
        return replace(operation, ids=rng.sample(offered, min(len(offered), rng.randint(1, 3))))
    if kind in ("build", "add", "replace"):
        new = [id for id in IDS if id not in state.live]
        ids = rng.sample(new, min(len(new), rng.randint(2, 8)))
        ids += rng.sample(live, min(len(live), rng.randint(1, 4)))
        rng.shuffle(ids)
        images = dict(zip(ids, range(fresh, fresh + len(ids)), strict=True))
        images |= {id: state.live[id] for id in ids if id in state.live and rng.random() < 0.3}  # unchanged
        return replace(operation, images=images)
    return operation


def found_in(gallery: Gallery) -> State:
    """Return ids and contents of a gallery's images, as the catalog states them."""
    removed = {row.id: row.mtime_ns for row in gallery.removed_images()}
    return State({row.id: row.mtime_ns for row in gallery.images()}, removed)


def check_state(path: Path, states: list[State], may_lack: bool) -> State:
    """Check that a gallery is whole and in one of these states, bit by bit; return the state."""
    if may_lack and not (path / "catalog.sqlite").exists():
        try:
            Gallery(path).close()
        except GalleryNotFound:
            return State({})
    with Gallery(path) as gallery:
        problems = list(gallery.verify())
        assert not problems, f"verify: {problems}"
        found = found_in(gallery)
        matching = [s for s in states if (s.live, s.offered()) == (found.live, found.removed)]
        assert matching, f"holds {found.live} and offers {found.removed}, which is no state of {states}"
        check(gallery, found.live)
        for row in [*gallery.images(), *gallery.removed_images()]:
            assert not differs(gallery, row.id, row.mtime_ns, row), f"{row.id} has other bits"
    return matching[-1]


def differs(gallery: Gallery, id: str, number: int, row: object = None) -> bool:
    """Return whether an image's stored features differ from freshly computed ones."""
    stored = gallery.stored(row or gallery.image(id))
    pooled, maps = features(number)
    pairs = zip([pooled, *maps], [stored.pooled, *stored.maps], strict=True)
    return not all(np.array_equal(computed, read) for computed, read in pairs)


def lost_images(path: Path, states: list[State]) -> int:
    """Return the number of images in all of these states that are missing from a gallery, or have other bits."""
    certain = set.intersection(*(set(state.live.items()) for state in states))
    try:
        gallery = Gallery(path)
    except Exception:
        return len(certain)
    lost = 0
    with gallery:
        for id, number in certain:
            try:
                lost += differs(gallery, id, number)
            except Exception:
                lost += 1
    return lost


def check_next_writer(path: Path) -> None:
    """Check that without readers, a writer that opens and closes leaves no unused file."""
    with GalleryWriter(path):
        pass
    # SQLite deletes an empty journal at the next commit.
    left, parts = files_of(path) - {"catalog.sqlite-journal"}, parts_of(path)
    assert left == parts, f"left over: {sorted(left - parts)}; missing: {sorted(parts - left)}"
