"""Files of a served gallery that are truncated, as `cp` of a backup does first: an error, and then right answers."""

import os
from pathlib import Path

import pytest

from spade_index.features.backbone import Backbone
from spade_index.gallery.index import build as build_module
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import IndexSettings

from helpers.service_process import Process
from helpers.tiny import png, random_images

BEFORE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from helpers.tiny import tiny_backbone
from spade_index.features import backbone
backbone.load_backbone = lambda *given, **named: tiny_backbone()
"""


@pytest.fixture
def root(tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a gallery whose index is mapped into memory."""
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 100)
    root = tmp_path / "root"
    root.mkdir()
    with GalleryWriter(root / "gallery", backbone.settings) as writer:
        writer.add_features(random_images(backbone.settings, 600))
        writer.build_index(IndexSettings("flat"))
    return root


def test_a_service_outlives_it(root: Path) -> None:
    files = [file for kind in ("shards", "index") for file in (root / "gallery" / kind).iterdir()]
    with Process(root, before=BEFORE) as service:

        def ask() -> tuple[int, object]:
            answer = service.http.post("/v1/galleries/gallery/query", content=png(5), params={"maps": "always"})
            told = answer.json()
            return answer.status_code, told["results"][0]["neighbours"] if answer.status_code == 200 else told["detail"]

        whole = ask()
        assert whole[0] == 200
        for file in [*files, root / "gallery" / "catalog.sqlite"]:
            data = file.read_bytes()
            os.truncate(file, 0)
            status, detail = found = ask()
            assert found == whole or (status == 500 and file.name in str(detail) and "\n" not in str(detail)), detail
            assert status == 500 or file.parent.name == "shards"  # whose maps are in memory
            file.write_bytes(data)
            assert ask() == whole
        assert service.process.poll() is None
