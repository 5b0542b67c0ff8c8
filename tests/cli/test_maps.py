"""`build --maps`, `compact --maps` and what `info` says of them."""

import json
from pathlib import Path

from spade_index.cli.values import CODECS
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.store.codecs import NAMES
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images
from spade_index.method.storage_loss import StorageLoss

from helpers.cli_runs import BACKBONE, refused, run
from helpers.tiny import write_images


def test_the_options_are_those_of_the_store() -> None:
    assert CODECS == NAMES


def test_the_loss_is_measured_on_the_same_defects(tmp_path: Path, backbone: Backbone) -> None:
    images = write_images(tmp_path / "images", 20, size=(64, 64))
    with GalleryWriter(tmp_path / "gallery", backbone.settings, maps="float16") as writer:
        writer.add(find_images(images), backbone)
        loss = StorageLoss(writer.gallery, backbone)
        writer.compact(maps="int8")
        said = loss.after(writer.gallery)
        assert 0 <= loss.before.image_roc_auc <= 1
        assert "synthetic defects, image ROC AUC" in said


def test_a_new_gallery_stores_codes_but_not_with_the_preset_of_the_paper(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 2)
    for options, codec in (
        ([], "int8"),
        (["--preset", "paper"], "float16"),
        (["--preset", "paper", "--maps", "int4"], "int4"),
    ):
        path = tmp_path / "-".join(["gallery", *options])
        run("build", images, path, *BACKBONE, *options)
        run("build", images, path, *BACKBONE, *options)
        assert json.loads(run("info", path, "--json").stdout)["maps"] == codec


def test_maps_are_stored_otherwise_from_the_command_line(gallery_path: Path) -> None:
    said = run("compact", gallery_path, "--maps", "int4", "--no-measure").output
    assert f"`spade-index calibrate {gallery_path}`" in said
    facts = json.loads(run("info", gallery_path, "--json").stdout)
    assert (facts["maps"], facts["transcoding"], facts["format_version"]) == ("int4", False, 2)
    assert "int4, " in run("info", gallery_path).output
    assert "stays lost" in refused("compact", gallery_path, "--maps", "int8")
    assert "scores have changed" not in run("compact", gallery_path).output
    with Gallery(gallery_path) as gallery:
        assert gallery.codec == "int4"


def test_a_loss_that_cannot_be_measured_is_said(gallery_path: Path) -> None:
    result = run("compact", gallery_path, "--maps", "int8")
    assert "the loss is not measured: " in result.stderr
    assert "12 images" in result.stdout


def test_levels_are_dropped_from_the_command_line(gallery_path: Path) -> None:
    assert "was not tuned" in refused("compact", gallery_path, "--levels", "tuned")
    assert "searched by levels 0,1,2" in refused("compact", gallery_path, "--levels", "1,2")
    with GalleryWriter(gallery_path) as writer:
        tuned = {"search": {"compared_levels": [1, 2]}, "why": "few levels", "images": 12}
        writer.set_tuned({**tuned, "snapshot": writer.gallery.snapshot})
    assert "whole numbers" in refused("compact", gallery_path, "--levels", "1.5")
    said = run("compact", gallery_path, "--levels", "tuned").output
    assert "levels 1, 2 are stored" in said
    assert "nothing is lost" in said
    assert f"calibrations are forgotten: `spade-index calibrate {gallery_path}`" in said
    facts = json.loads(run("info", gallery_path, "--json").stdout)
    assert (facts["maps"], facts["stored_levels"], facts["format_version"]) == ("float16", [1, 2], 3)
    assert "float16, level 0 dropped, " in run("info", gallery_path).output
    assert "stores level 0 no more" in refused("calibrate", gallery_path, "--compared-levels", "0,1")
    assert "12 images" in run("calibrate", gallery_path).output
    assert "forgotten" not in run("compact", gallery_path, "--levels", "1,2").output
    said = run("compact", gallery_path, "--maps", "int8", "--no-measure").output
    assert "scores have changed" in said
    assert "nothing is lost" not in said
    with Gallery(gallery_path) as gallery:
        assert gallery.storage.name == "int8@1,2"
    assert "no problems" in run("verify", gallery_path).output


def test_codes_and_dropped_levels_together_are_not_said_to_lose_nothing(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        search = {"compared_levels": [1, 2]}
        writer.set_tuned({"search": search, "why": "few levels", "images": 12, "snapshot": writer.gallery.snapshot})
    said = run("compact", gallery_path, "--levels", "tuned", "--maps", "int8", "--no-measure").output
    assert "levels 1, 2 are stored" in said
    assert "nothing is lost" not in said
