"""After any sequence of changes a gallery equals a plain dictionary, and readers keep the snapshot they opened."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spade_index.errors import InputError, UnknownImage
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.model import BACKBONE, Model, check, contents
from helpers.tiny import files_of, image_file, parts_of

IDS = st.sampled_from("abcdefgh")
CONTENTS = st.integers(0, 9)


class Changes(RuleBasedStateMachine):
    """A gallery beside a dictionary."""

    @initialize(shard_rows=st.integers(1, 4))
    def create(self, shard_rows: int) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.shard_rows = shard_rows
        self.model: Model = {}
        self.removed: Model = {}  # what each id was when it was last removed
        self.readers: list[tuple[Gallery, Model]] = []
        self.open()

    def open(self) -> None:
        self.writer = GalleryWriter(self.folder / "gallery", BACKBONE.settings, maps="float16")
        self.writer.shard_rows = self.shard_rows

    def add_all(self, images: Model, replace: bool = False) -> None:
        before = dict(self.model)
        copies = 0
        for id, number in images.items():
            if id not in self.model and number in self.model.values():
                copies += 1
            elif id not in self.model:
                self.model[id] = number
            elif replace and number != self.model[id]:
                self.removed[id], self.model[id] = self.model[id], number
        files = [image_file(id, contents(number), mtime_ns=number) for id, number in images.items()]
        report = self.writer.add(files, BACKBONE, replace=replace, batch_size=1)
        changed = [id for id in images if id in before and before[id] != images[id]]
        assert report.added == sum(self.model[id] != before.get(id) for id in self.model)
        assert report.copies == copies
        assert report.replaced == (len(changed) if replace else 0)
        assert report.changed == (0 if replace else len(changed))
        assert report.unchanged == sum(before.get(id) == images[id] for id in images)

    @rule(images=st.dictionaries(IDS, CONTENTS, min_size=1, max_size=5))
    def add(self, images: Model) -> None:
        self.add_all(images)

    @rule(id=IDS, number=CONTENTS)
    def replace(self, id: str, number: int) -> None:
        self.add_all({id: number}, replace=True)

    @rule(ids=st.lists(IDS, min_size=1, max_size=3))
    def remove(self, ids: list[str]) -> None:
        if set(ids) <= set(self.model):
            assert self.writer.remove(ids) == self.writer.gallery.snapshot
            self.removed |= {id: self.model.pop(id) for id in set(ids)}
        else:
            with pytest.raises(UnknownImage):
                self.writer.remove(ids)

    @rule(ids=st.lists(IDS, min_size=1, max_size=3))
    def restore(self, ids: list[str]) -> None:
        offered = set(ids) <= set(self.removed) - set(self.model)
        numbers = [self.removed.get(id) for id in set(ids)]
        if offered and len(set(numbers)) == len(numbers) and not set(numbers) & set(self.model.values()):
            assert self.writer.restore(ids) == self.writer.gallery.snapshot
            self.model |= {id: self.removed[id] for id in ids}
        else:
            with pytest.raises((InputError, UnknownImage)):
                self.writer.restore(ids)

    @precondition(lambda self: self.model)
    @rule()
    def index(self) -> None:
        assert self.writer.build_index().images == len(self.model)
        assert not self.writer.index_is_stale()

    @rule()
    def compact(self) -> None:
        self.writer.compact()
        self.removed.clear()
        assert self.writer.gallery.catalog.removed_count() == 0
        assert len(self.writer.gallery.catalog.snapshots()) == 1

    @rule()
    def reopen(self) -> None:
        self.writer.__exit__()
        self.open()

    @precondition(lambda self: len(self.readers) < 4)
    @rule(used=st.booleans())
    def open_reader(self, used: bool) -> None:
        reader = Gallery(self.folder / "gallery")
        if used:
            check(reader, self.model)
        self.readers.append((reader, dict(self.model)))

    @precondition(lambda self: self.readers)
    @rule()
    def close_reader(self) -> None:
        self.readers.pop(0)[0].close()

    @precondition(lambda self: self.readers)
    @rule()
    def move_reader(self) -> None:
        reader, _ = self.readers.pop(0)
        reader.at()
        self.readers.append((reader, dict(self.model)))

    @invariant()
    def holds_what_the_model_says(self) -> None:
        check(self.writer.gallery, self.model)
        removed = {row.id for row in self.writer.gallery.removed_images()}
        assert removed == set(self.removed) - set(self.model)

    @invariant()
    def readers_keep_their_snapshot(self) -> None:
        for reader, model in self.readers:
            check(reader, model)

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            assert list(self.writer.gallery.verify()) == []
            for reader, _ in self.readers:
                reader.close()
            self.writer.__exit__()
            assert files_of(self.folder / "gallery") == parts_of(self.folder / "gallery")
            shutil.rmtree(self.folder)


TestChanges = Changes.TestCase
TestChanges.settings = settings(
    max_examples=40, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
