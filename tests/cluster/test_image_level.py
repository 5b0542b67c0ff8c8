"""Workers that scan their shares of an index's lists find the nearest images that one process finds, to the bit."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spade_index.cli.cluster_options import SearchClusterOptions
from spade_index.cluster import image_level
from spade_index.cluster.searching import SearchOnCrew
from spade_index.errors import GalleryDamaged, GalleryError
from spade_index.gallery import Gallery
from spade_index.gallery.index import build as build_module
from spade_index.gallery.index.lists import Probes
from spade_index.gallery.location import Location
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images, load
from spade_index.method.detector import Detector
from spade_index.method.synthetic import Sample
from spade_index.method.trials import Trials
from spade_index.settings import IndexSettings

from helpers.clusters import SEARCH, await_all, processes
from helpers.remote import opened, push
from helpers.tiny import random_images, tiny_backbone, write_images

IMAGES, LATER, ALIKE = 400, 12, 70
WAYS = {"flat": IndexSettings("flat", 0), "sq8": IndexSettings("sq8", 0), "components": IndexSettings("sq8", 6)}


@pytest.fixture(scope="module", params=WAYS)
def listed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery whose index has lists, from which images were removed, and to which some were added since."""
    path, settings = tmp_path_factory.mktemp(request.param) / "gallery", tiny_backbone().settings
    new = random_images(settings, IMAGES + LATER)
    new[5 : 5 + ALIKE] = [
        replace(image, stored=replace(image.stored, pooled=new[5].stored.pooled)) for image in new[5 : 5 + ALIKE]
    ]
    with GalleryWriter(path, settings) as writer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "EXACT_LIMIT", 100)
        patch.setattr(build_module, "LEAST_PER_LIST", 20)
        writer.add_features(new[:IMAGES])
        assert writer.build_index(WAYS[request.param]).nlist == 20
        writer.remove([image.origin.id for image in new[10:IMAGES:9]])
        writer.add_features(new[IMAGES:])
    return path


def asked_of(path: Path, count: int = 40) -> np.ndarray:
    """Return descriptors, float32 [count, D]: some of the gallery's own, one of which many images have, and others."""
    with Gallery(path) as gallery:
        own = gallery.pooled(gallery.sample(IMAGES)[3:9])
        return np.concatenate([own, np.random.default_rng(7).normal(size=(count - 6, own.shape[1]))]).astype(np.float32)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 50, IMAGES - 50])
def test_the_same_images_as_by_one_process(listed: Path, elsewhere: SearchOnCrew, parts: int, k: int) -> None:
    on = SearchOnCrew(elsewhere.crew, replicas=2 if parts == 1 else 1, scanned_here=0)
    on.parts = parts  # two workers have three
    queries = asked_of(listed)
    with Gallery(listed) as seen:
        found = on.image_search(seen).nearest(queries, k)
        assert found == seen.nearest(queries, k)
    assert [len(of) for of in found] == [k] * len(queries)
    assert on.scanned.queries >= len(queries)
    assert on.scanned.calls >= 3 * parts  # three batches
    assert min(on.scanned.bytes_to_workers, on.scanned.bytes_back) > 0


def test_a_worker_that_is_killed_while_it_answers(
    listed: Path, elsewhere: SearchOnCrew, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await_all(elsewhere.crew)
    told.clear()
    monkeypatch.setattr(image_level, "AHEAD", 1)
    queries = asked_of(listed, 200)

    def killing(batches: Iterator[Probes]) -> Iterator[Probes]:
        for number, probes in enumerate(batches):
            if number == 4:
                processes(elsewhere.crew)[0].kill()
            yield probes

    with Gallery(listed) as seen:
        images = SearchOnCrew(elsewhere.crew, scanned_here=0).image_search(seen)
        scan = images.scan
        monkeypatch.setattr(images, "scan", lambda lists, batches, *rest: scan(lists, killing(batches), *rest))
        assert images.nearest(queries, 20) == seen.nearest(queries, 20)
    assert len(told) == 1
    await_all(elsewhere.crew)


def test_lists_that_are_scanned_sooner_here_are(listed: Path, elsewhere: SearchOnCrew) -> None:
    queries = asked_of(listed)
    with Gallery(listed) as seen:
        whole = seen.nearest(queries, 20)
        for scanned_here, asked in ((1 << 20, False), (0, True)):
            on = SearchOnCrew(elsewhere.crew, scanned_here=scanned_here)
            assert on.image_search(seen).nearest(queries, 20) == whole
            assert bool(on.scanned.calls) == asked


def test_a_detector_finds_the_same_and_tells_what_travelled(
    listed: Path, tmp_path: Path, elsewhere: SearchOnCrew, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, on = tiny_backbone(), SearchOnCrew(elsewhere.crew, scanned_here=0)
    files = find_images(write_images(tmp_path, 3, seed=9))
    queries = [load(file, backbone.settings.preprocessing) for file in files]
    with Gallery(listed) as seen:
        there, here = (Detector(seen, backbone, SEARCH, elsewhere=where) for where in (on, None))
        for found, whole in zip(there.detect(queries), here.detect(queries), strict=True):
            assert (found.neighbours, found.scores) == (whole.neighbours, whole.scores)
        assert there.pixel_search.info()["image_level"]["queries"] == len(queries)
        SearchClusterOptions("local", None, None).say_travelled(there)
        lines = capsys.readouterr().err.splitlines()
        levels = [line.partition(" by workers (2): for each query ")[0] for line in lines]
        assert levels == ["image level", "pixel search"]
        there.pixel_search.close()
        assert there.nearest_images(there.features(queries)[0]) == here.nearest_images(here.features(queries)[0])


def test_trials_of_tuning_compare_with_the_same_images(listed: Path, elsewhere: SearchOnCrew) -> None:
    on = SearchOnCrew(elsewhere.crew, scanned_here=0)
    with Gallery(listed) as seen:
        plain = seen.sample(20)
        owner, masks = np.arange(len(plain)), np.zeros((len(plain), 1, 1), bool)
        sample = Sample(plain, owner, asked_of(listed, len(plain)), [], masks, backbone_ms=1, planned_ms=1)
        there, here = (Trials(seen, sample, elsewhere=where) for where in (on, None))
        assert there._neighbours == here._neighbours
    assert on.scanned.queries >= 2 * len(plain)  # more where candidates were too few


def test_a_gallery_that_moves_to_a_later_snapshot(listed: Path, tmp_path: Path, elsewhere: SearchOnCrew) -> None:
    path = shutil.copytree(listed, tmp_path / "gallery")
    queries = asked_of(path)
    with Gallery(path) as seen:
        images = SearchOnCrew(elsewhere.crew, scanned_here=0).image_search(seen)
        before = images.nearest(queries, 20)
        with GalleryWriter(path) as writer, pytest.MonkeyPatch.context() as patch:
            writer.remove([before[0][0].id])
            patch.setattr(build_module, "EXACT_LIMIT", 100)
            writer.build_index(IndexSettings("fp16", 0))
        assert images.nearest(queries, 20) == before
        seen.at()
        after = images.nearest(queries, 20)
        assert after == seen.nearest(queries, 20)
    assert before[0][0] not in after[0]


def test_a_gallery_in_an_object_store(listed: Path, tmp_path: Path, elsewhere: SearchOnCrew) -> None:
    location = Location.parse(f"file://{tmp_path}/pushed")
    push(listed, location)
    queries = asked_of(listed)
    with Gallery(listed) as here, opened(tmp_path / "cache", location) as there:
        images = SearchOnCrew(elsewhere.crew, scanned_here=0).image_search(there)
        assert images.nearest(queries, 20) == here.nearest(queries, 20)


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (Path.unlink, GalleryError, r"gallery: 0.*faiss is not there for the worker on .*: if the index was rebuilt"),
        (lambda file: file.write_bytes(b"no index"), GalleryDamaged, r"faiss: damaged index: rebuild it with"),
    ],
)
def test_an_index_that_workers_cannot_read(
    listed: Path, tmp_path: Path, elsewhere: SearchOnCrew, harm: Any, error: type[Exception], message: str
) -> None:
    path = shutil.copytree(listed, tmp_path / "gallery")
    queries = asked_of(path)
    with Gallery(path) as seen:
        seen.nearest(queries, 1)  # which opens it here
        (file,) = (path / "index").glob("*.faiss")
        harm(file)
        images = SearchOnCrew(elsewhere.crew, scanned_here=0).image_search(seen)
        with pytest.raises(error, match=message) as raised:
            images.nearest(queries, 20)
    assert "\n" not in str(raised.value)
    assert elsewhere.crew._members
    assert not any(member.calls for member in elsewhere.crew._members)
