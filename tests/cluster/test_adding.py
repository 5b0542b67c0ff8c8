"""Workers of a cluster build the gallery that one process builds, also where workers or the writer are killed."""

import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from spade_index.cluster import crew
from spade_index.cluster.crew import Crew
from spade_index.cluster.elsewhere import workers_of
from spade_index.errors import BackboneError, ClusterError, ImageError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.cleanup import INCOMING
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile

from helpers.clusters import (
    IMAGES,
    blended_backbone,
    build_here,
    build_there,
    overflowing_backbone,
    processes,
    require_same,
    tiled_backbone,
    without_weights,
)
from helpers.tiny import png, tiny_backbone, write_images
from helpers.warm import ran

pytestmark = pytest.mark.usefixtures("cluster")
GOOD = IMAGES - 2


def test_the_same_gallery_as_by_one_process(tmp_path: Path, sources: Path, whole: Path) -> None:
    notices, failed, done = [], [], []
    options = {"notice": notices.append, "failed": failed.append, "progress": done.append}
    report = build_there(tmp_path / "gallery", sources, **options)
    assert (report.added, report.copies, report.failed) == (GOOD, 1, 1)
    assert sum(done) == IMAGES
    assert len(failed) == 1
    assert len(notices) == 2
    require_same(tmp_path / "gallery", whole)
    told = []
    build_here(tmp_path / "other", sources, notice=told.append)
    assert sorted(told) == sorted(notices)


def test_pictures_that_are_cut_into_tiles(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 4)
    build_here(tmp_path / "whole", images, tiled_backbone)
    build_there(tmp_path / "gallery", images, workers=1, backbone=tiled_backbone)
    require_same(tmp_path / "gallery", tmp_path / "whole")


def test_more_images_are_added(tmp_path: Path, whole: Path) -> None:
    more = write_images(tmp_path / "more", 5, seed=1)
    for build, name in ((build_here, "whole"), (partial(build_there, workers=1), "gallery")):
        report = build(shutil.copytree(whole, tmp_path / name), more, replace=True)
        assert (report.added, report.replaced) == (5, 4)  # 004.png is new: it could not be decoded before
    require_same(tmp_path / "gallery", tmp_path / "whole")


def test_a_killed_worker_has_its_shard_made_by_another(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images", 30)  # so there is work for all workers after the first commit
    build_here(tmp_path / "whole", images)
    said: list[str] = []
    started: list[Crew] = []

    def kill_one(images: int) -> None:
        if images and not said:
            (process, _) = processes(started[0])
            process.kill()
            said.append(str(process.pid))

    build_there(tmp_path / "gallery", images, progress=kill_one, say=said.append, begun=started.append)
    node = socket.gethostname()
    assert said[1:] == [f"a worker on {node} (process {said[0]}) was lost: what it had in work is done again"]
    assert capfd.readouterr() == ("", "")
    require_same(tmp_path / "gallery", tmp_path / "whole")


def dying(marker: Path) -> Backbone:
    """Kill the worker that loads this backbone while there is a file, which it deletes unless it is a folder."""
    if marker.exists():
        with suppress(OSError):
            marker.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return blended_backbone()


def test_a_worker_that_dies_while_it_starts_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, said = write_images(tmp_path / "images", 4), []
    build_here(tmp_path / "whole", images)
    (tmp_path / "marker").touch()
    build_there(tmp_path / "gallery", images, workers=1, there=partial(dying, tmp_path / "marker"), say=said.append)
    assert said == ["a worker was lost while it started: another one starts"]
    require_same(tmp_path / "gallery", tmp_path / "whole")
    monkeypatch.setattr(crew, "TRIES", 1)
    with pytest.raises(ClusterError, match=r"^1 workers were lost while they started: The actor is dead because"):
        build_there(tmp_path / "other", images, workers=1, there=partial(dying, tmp_path))


def test_a_killed_writer_is_carried_on(tmp_path: Path, sources: Path, cluster: ModuleType) -> None:
    path = tmp_path / "gallery"
    address = cluster.get_runtime_context().gcs_address
    program = "from helpers.clusters import main; main()"
    ended = ran(program, path, sources, address, 3, PYTHONPATH=os.pathsep.join(sys.path))
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    with Gallery(path) as gallery:
        before = len(gallery)
        assert list(gallery.verify()) == []
    assert 0 < before < GOOD
    report = build_there(path, sources, workers=1, backbone=tiny_backbone)
    assert (report.unchanged, report.added) == (before, GOOD - before)
    assert not (path / INCOMING).exists()
    build_here(tmp_path / "whole", sources, tiny_backbone)  # whose features do not depend on where batches begin
    require_same(path, tmp_path / "whole")


def test_strict_stops_at_the_same_image(tmp_path: Path, sources: Path) -> None:
    found = []
    for build, name in ((build_here, "whole"), (partial(build_there, workers=1), "gallery")):
        with pytest.raises(ImageError, match=r"004\.png") as error:
            build(tmp_path / name, sources, strict=True)
        found.append(str(error.value))
    assert found[0] == found[1]
    require_same(tmp_path / "gallery", tmp_path / "whole")


def test_an_image_that_only_the_writer_can_read_is_not_left_out(tmp_path: Path) -> None:
    writing = os.getpid()

    def read() -> bytes:
        if os.getpid() != writing:
            raise OSError("no such file")
        return png(1)

    file = ImageFile("1.png", "/elsewhere/1.png", 1, 1, read)
    backbone = tiny_backbone()
    with (
        GalleryWriter(tmp_path / "gallery", backbone.settings) as writer,
        workers_of(writer, tiny_backbone, address="local", workers=1) as elsewhere,
        pytest.raises(ClusterError, match=r"1\.png: can be read here, and not on "),
    ):
        writer.add([file], backbone, elsewhere=elsewhere)


def test_workers_with_other_weights_are_refused(tmp_path: Path, sources: Path) -> None:
    with pytest.raises(ClusterError, match="other weights or other levels than here"):
        build_there(tmp_path / "gallery", sources, workers=1, there=partial(tiny_backbone, 1))


def test_what_a_worker_raises_is_raised_here(tmp_path: Path, sources: Path) -> None:
    with pytest.raises(BackboneError, match="there are no weights"):
        build_there(tmp_path / "gallery", sources, workers=1, there=without_weights)
    with pytest.raises(BackboneError, match="not finite"):
        build_there(tmp_path / "other", sources, workers=1, backbone=overflowing_backbone)


def test_workers_that_do_not_start_in_time(
    tmp_path: Path, sources: Path, cluster: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "PATIENCE", 0.0)
    with pytest.raises(ClusterError, match=r"0 of 2 workers have started within 0 s: .* ask for fewer --workers"):
        build_there(tmp_path / "gallery", sources)


def test_more_workers_than_there_is_room_for(tmp_path: Path, sources: Path) -> None:
    with pytest.raises(ClusterError, match="the cluster has room for 2 workers, not for 3"):
        build_there(tmp_path / "gallery", sources, workers=3)
