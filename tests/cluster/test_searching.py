"""Workers of a cluster find what one process finds, to the bit, also where one of them is killed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spade_index.cluster import crew
from spade_index.cluster.searching import SearchOnCrew
from spade_index.errors import ClusterError, GalleryError, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.location import Location
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage, find_images, load
from spade_index.images.interest import RegionOfInterest
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.clusters import SEARCH, WAYS, await_all, processes
from helpers.remote import opened, push
from helpers.serving import Server
from helpers.tiny import build, png, tiny_backbone, write_images


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[DecodedImage]:
    folder = write_images(tmp_path_factory.mktemp("queries"), 3, seed=9)
    return [load(file, tiny_backbone().settings.preprocessing) for file in find_images(folder)]


def assert_same(found: list[Detection], whole: list[Detection]) -> None:
    """Check that all that is known of images is the same, to the bit, but for matches of cells that do not count."""
    for one, other in zip(found, whole, strict=True):
        assert replace(one, pixels=None) == replace(other, pixels=None)
        assert one.pixels is not None
        assert one.pixels.worst() == other.pixels.worst()
        counted = slice(None) if other.pixels.cells is None else other.pixels.cells
        for name, value in vars(other.pixels).items():
            found_there = vars(one.pixels)[name]
            if name == "matches":
                value, found_there = value[counted], found_there[counted]
            np.testing.assert_array_equal(found_there, value, err_msg=name)


def both(
    path: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, search: SearchSettings = SEARCH
) -> tuple[list[Detection], list[Detection]]:
    """Return what workers find, and what this process finds."""
    backbone = tiny_backbone()
    with Gallery(path) as seen:
        there = Detector(seen, backbone, search, elsewhere=elsewhere).detect(queries)
        return there, Detector(seen, backbone, search).detect(queries)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_answers_as_by_one_process(
    gallery: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, way: str
) -> None:
    found, whole = both(gallery, queries, elsewhere, WAYS[way])
    assert_same(found, whole)
    assert (found[0].p_value is not None) == (way in ("plain", "subtracted"))


@pytest.mark.parametrize("way", ["plain", "window"])
def test_a_region_of_interest(
    gallery: Path, tmp_path: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, way: str
) -> None:
    path = shutil.copytree(gallery, tmp_path / "gallery")
    with GalleryWriter(path) as writer:
        writer.set_interest(RegionOfInterest(np.tri(8, dtype=bool), "test"))
    found, whole = both(path, queries, elsewhere, WAYS[way])
    assert_same(found, whole)
    assert not found[0].pixels.cells.all()


def test_a_killed_worker_is_replaced_while_queries_wait(
    gallery: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, told: list[str]
) -> None:
    await_all(elsewhere.crew)  # of a test before: the loss of a worker that is not there yet is not told
    told.clear()
    backbone = tiny_backbone()
    with Gallery(gallery) as seen:
        detector = Detector(seen, backbone, SEARCH, elsewhere=elsewhere)
        pooled, pyramid = detector.features(queries)
        nearest = detector.nearest_images(pooled)
        pixels = detector.nearest_pixels(pyramid, nearest)
        next(pixels)
        processes(elsewhere.crew)[0].kill()
        assert len(list(pixels)) == len(queries) - 1
        assert_same(detector.detect(queries), Detector(seen, backbone, SEARCH).detect(queries))
    (line,) = told
    assert "a worker on" in line
    assert "was lost" in line


def test_replicas_share_the_queries_and_one_answers_while_the_other_is_replaced(
    gallery: Path, tmp_path: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, told: list[str]
) -> None:
    path, replicas = shutil.copytree(gallery, tmp_path / "gallery"), SearchOnCrew(elsewhere.crew, replicas=2)
    await_all(elsewhere.crew)
    told.clear()
    assert_same(*both(path, queries, replicas))
    assert replicas.travelled.calls == len(queries)  # one for each
    open_there = [[file.path for file in process.open_files()] for process in processes(elsewhere.crew)]
    assert len(open_there) == 2
    assert all(any(file.startswith(str(path / "shards")) for file in files) for files in open_there)
    processes(elsewhere.crew)[0].kill()
    assert_same(*both(path, queries, replicas))
    assert len(told) == 1
    with pytest.raises(ClusterError, match="3 replicas need as many workers, and there are 2: ask for fewer"):
        SearchOnCrew(elsewhere.crew, replicas=3)


def test_what_a_writer_adds_is_found_without_a_new_start(
    gallery: Path, tmp_path: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, backbone: Backbone
) -> None:
    path = shutil.copytree(gallery, tmp_path / "gallery")
    with Gallery(path) as seen:
        before = Detector(seen, backbone, SEARCH, elsewhere=elsewhere)
        assert {found.snapshot for found in before.detect(queries)} == {seen.snapshot}
        write_images(tmp_path / "images" / "more", 5, seed=9)
        build(path, tmp_path / "images", backbone, maps=None)
        found, whole = both(path, queries, elsewhere)
        assert_same(found, whole)
        assert found[0].snapshot == seen.snapshot + 1
        assert_same(before.detect(queries), Detector(seen, backbone, SEARCH).detect(queries))
        before.pixel_search.close()


def test_a_service_answers_as_alone_and_takes_up_commits(
    gallery: Path, tmp_path: Path, elsewhere: SearchOnCrew, backbone: Backbone
) -> None:
    path, answers = shutil.copytree(gallery, tmp_path / "root" / "gallery"), []
    server = Server(tmp_path / "root", elsewhere=elsewhere, memory=1 << 20)
    alone = Server(tmp_path / "root")
    try:
        for _ in range(2):
            found, expected = (one.query("gallery", png(3), maps="always") for one in (server, alone))
            assert found.pop("score_map")["max"] == expected.pop("score_map")["max"]
            assert found == expected
            answers.append(found["snapshot"])
            write_images(tmp_path / "images" / "more", 3, seed=9)
            build(path, tmp_path / "images", backbone, maps=None)
        assert answers[1] == answers[0] + 1
    finally:
        server.stop()
        alone.stop()


def test_a_snapshot_that_was_deleted_meanwhile(
    gallery: Path, tmp_path: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, backbone: Backbone
) -> None:
    path = shutil.copytree(gallery, tmp_path / "gallery")
    with Gallery(path) as seen:
        detector = Detector(seen, backbone, SEARCH, elsewhere=elsewhere)
        with GalleryWriter(path) as writer:
            writer.remove(["000.png"])
            writer.compact()
        with pytest.raises(GalleryError, match=r"snapshot \d+ is not there .* open the gallery again"):
            detector.detect(queries)


@pytest.mark.parametrize("there", ["nothing", "another gallery"])
def test_workers_that_do_not_see_the_gallery(
    there: str, gallery: Path, tmp_path: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, backbone: Backbone
) -> None:
    path = shutil.copytree(gallery, tmp_path / "gallery")
    with Gallery(path) as seen:
        detector = Detector(seen, backbone, SEARCH, elsewhere=elsewhere)
        detector.nearest_images(detector.features(queries)[0])  # which opens its index
        path.rename(tmp_path / "gone")
        if there == "another gallery":
            with GalleryWriter(shutil.copytree(gallery, path)) as writer:
                writer.set_interest(RegionOfInterest(np.tri(8, dtype=bool), "test"))
        with pytest.raises(ClusterError, match=r"gallery: the worker on .* does not see this gallery: put it on"):
            detector.detect(queries)


def test_a_gallery_in_an_object_store(
    gallery: Path, tmp_path: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, backbone: Backbone
) -> None:
    location = Location.parse(f"file://{tmp_path}/pushed")
    with GalleryWriter(shutil.copytree(gallery, tmp_path / "gallery")) as writer:
        writer.compact(maps="int8")
    push(tmp_path / "gallery", location)
    with Gallery(tmp_path / "gallery") as here, opened(tmp_path / "cache", location) as there:
        found = Detector(there, backbone, SEARCH, elsewhere=elsewhere).detect(queries)
        assert_same(found, Detector(here, backbone, SEARCH).detect(queries))


def test_bytes_that_travel_are_counted(
    gallery: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, backbone: Backbone
) -> None:
    with Gallery(gallery) as seen:
        detector = Detector(seen, backbone, SEARCH, elsewhere=elsewhere)
        before = detector.pixel_search.info()
        detector.detect(queries)
        after = detector.pixel_search.info()
    moved = {name: after[name] - before[name] for name in ("queries", "calls", "bytes_to_workers", "bytes_back")}
    levels = 4 * sum(c * h * w for c, h, w in backbone.settings.level_shapes)
    assert moved["queries"] == len(queries)
    assert len(queries) < moved["calls"] <= 2 * len(queries)  # both workers have neighbours of some query
    assert moved["bytes_to_workers"] == moved["calls"] * levels
    assert 64 * (4 + 1) <= moved["bytes_back"] / moved["calls"] <= 64 * (4 + 2)  # a distance, a number of few bytes
    assert after["hits"] + after["misses"] == len(queries) * SEARCH.gallery_neighbours


def test_levels_that_are_searched_apart_are_refused(gallery: Path, elsewhere: SearchOnCrew) -> None:
    with Gallery(gallery) as seen, pytest.raises(InputError, match="`per-level` is searched by one process"):
        Detector(seen, search=replace(SEARCH, mode="per-level"), elsewhere=elsewhere)


def test_a_query_that_has_lost_too_many_workers(
    gallery: Path, queries: list[DecodedImage], elsewhere: SearchOnCrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_all(elsewhere.crew)
    monkeypatch.setattr(crew, "TRIES", 1)
    with Gallery(gallery) as seen:
        detector = Detector(seen, tiny_backbone(), SEARCH, elsewhere=elsewhere)
        pooled, pyramid = detector.features(queries)
        pixels = detector.nearest_pixels(pyramid, detector.nearest_images(pooled))
        processes(elsewhere.crew)[0].kill()  # before it is asked: the answers may be there as soon as the first of them
        with pytest.raises(
            ClusterError, match=r"a query: 1 workers were lost over it, the last one on .*: see the logs"
        ):
            list(pixels)
