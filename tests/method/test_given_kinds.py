"""Arguments of another kind are refused in one line, before anything is computed or written."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.audit import audit
from spade_index.method.calibration import calibrate
from spade_index.method.detector import Detector
from spade_index.method.evaluation import evaluate
from spade_index.method.router import Router, RouterSettings
from spade_index.method.tuning import tune
from spade_index.settings import SearchSettings

NO_COUNTS = (0, -1, 1.5, True, "5", math.nan, 2**63)
NO_REALS = (-1, True, "5", math.nan, math.inf)
SEARCH = SearchSettings()


def one_line(call: Callable[[], object], kind: type[Exception] = InputError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def gallery(gallery_path: Path) -> Any:
    with Gallery(gallery_path) as opened:
        yield opened


def test_numbers_are_checked_where_they_enter(gallery: Gallery, backbone: Backbone) -> None:
    detector = Detector(gallery, backbone)
    for value in NO_COUNTS:
        for name in ("sample", "map_memory"):
            if (name, value) != ("map_memory", 0):
                assert name in one_line(lambda name=name, value=value: calibrate(gallery, SEARCH, **{name: value}))
        assert "count" in one_line(lambda value=value: audit(gallery, value))
        for name in ("ways", "images"):
            assert name in one_line(lambda name=name, value=value: tune(gallery, backbone, **{name: value}))
        for name in ("batch_size", "workers", "metric_size"):
            assert name in one_line(lambda name=name, value=value: evaluate(detector, [], **{name: value}))
    for value in NO_REALS:
        assert "seconds" in one_line(lambda value=value: calibrate(gallery, SEARCH, seconds=value))
        assert "seconds" in one_line(lambda value=value: tune(gallery, backbone, seconds=value))
        assert "reach" in one_line(lambda value=value: RouterSettings(value))
        assert "false alarms" in one_line(lambda value=value: calibrate(gallery, SEARCH, false_alarms=value))


@pytest.mark.parametrize("device", ["nope", 5, "cuda:x", "cuda:99", b"cpu"])
def test_a_device_that_is_not_there_is_named(gallery: Gallery, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no device" in one_line(lambda: Detector(gallery, device=device))


def test_parts_are_checked_before_anything_is_computed(gallery: Gallery, backbone: Backbone) -> None:
    for other in (None, 5, "x", gallery.path):
        for call in (
            lambda other=other: calibrate(other, SEARCH),
            lambda other=other: calibrate(gallery, other),
            lambda other=other: audit(other),
            lambda other=other: tune(other, backbone),
            lambda other=other: tune(gallery, other),
            lambda other=other: Router({"a": other}),
            lambda other=other: Router(other),
            lambda other=other: Router({"a": gallery}, other or 5),
            lambda other=other: evaluate(Detector(gallery, backbone), [other]),
        ):
            one_line(call, TypeError)


def test_a_writer_takes_files_and_ids_of_their_kinds(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        for value in NO_COUNTS:
            for name in ("batch_size", "workers"):
                assert name in one_line(lambda name=name, value=value: writer.add([], backbone, **{name: value}))
        for files in ("images", gallery_path, None, 5, ["000.png"], [None]):
            one_line(lambda files=files: writer.add(files, backbone))
        for ids in ("000.png", b"0", None, 5, [5], [None], [["000.png"]], [b"000.png"]):
            assert "ids must be" in one_line(lambda ids=ids: writer.remove(ids))
            assert "ids must be" in one_line(lambda ids=ids: writer.restore(ids))
        assert (len(writer.gallery), writer.gallery.snapshot) == (12, 3)


def test_an_index_is_measured_with_descriptors_alone(gallery_path: Path) -> None:
    whole = np.zeros((2, 12), np.float32)
    others = ("x", 5, whole[0], whole[:0], whole[:, :5], whole.astype(float), whole + np.nan, whole.tolist())
    with GalleryWriter(gallery_path) as writer:
        before = {*(gallery_path / "index").iterdir()}
        for queries in others:
            assert "float32" in one_line(lambda queries=queries: writer.build_index(queries=queries))
        for settings in ("x", 5, SEARCH, {}):
            assert "IndexSettings" in one_line(lambda settings=settings: writer.build_index(settings))
        assert {*(gallery_path / "index").iterdir()} == before
        writer.build_index(queries=whole)
