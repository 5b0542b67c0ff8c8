"""The figures of an evaluation equal those computed directly from scores, maps and masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import Image
from scipy import ndimage

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.images import load
from spade_index.images.decode import ORIENTATION
from spade_index.images.masks import TURNS
from spade_index.method.dataset import find_test_images
from spade_index.method.detector import Detector
from spade_index.method.evaluation import Evaluation, evaluate
from spade_index.method.metrics import pixel_metrics
from spade_index.settings import Preprocessing, SearchSettings

from helpers.datasets import BOXES, SIZE
from helpers.tiny import INPUT, build, tiny_backbone

SEARCH = SearchSettings(gallery_neighbours=4, score_neighbours=2, smoothing=1.0)


def run(root: Path, gallery_path: Path, backbone: Backbone, **options: object) -> Evaluation:
    with Gallery(gallery_path) as gallery:
        return evaluate(Detector(gallery, backbone, SEARCH), find_test_images(root), **options)


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the share of pairs in which the defective item scores higher; a tie counts half."""
    defective, values = np.asarray(labels), np.asarray(scores)
    differences = values[defective][:, None] - values[~defective]
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))


@pytest.fixture
def gallery_of(dataset: Path, tmp_path: Path, backbone: Backbone) -> Path:
    build(tmp_path / "of-dataset", dataset / "train" / "good", backbone)
    return tmp_path / "of-dataset"


def test_figures_equal_their_definitions(dataset, gallery_of, backbone):
    evaluation = run(dataset, gallery_of, backbone, batch_size=3)
    figures = evaluation.summary("map")
    with Gallery(gallery_of) as gallery:
        detector = Detector(gallery, backbone, SEARCH)
        images = find_test_images(dataset)
        detections = [detector.detect([load(i.file, gallery.settings.preprocessing)])[0] for i in images]
    labels = [image.kind != "good" for image in images]
    for score in ("pooled", "map", "both"):
        expected = auc(labels, [detection.scores[score] for detection in detections])
        assert figures["image_roc_auc_by_score"][score] == pytest.approx(expected)
    assert figures["image_roc_auc"] == figures["image_roc_auc_by_score"]["map"]
    maps = [detection.pixels.score_map for detection in detections]
    masks = []
    for image in images:
        mask = Image.open(image.mask) if image.mask else Image.new("L", SIZE)
        masks.append(np.asarray(mask.resize((INPUT, INPUT), Image.Resampling.NEAREST)) > 0)
    flat = np.concatenate([mask.ravel() for mask in masks]), np.concatenate([values.ravel() for values in maps])
    assert figures["pixel_roc_auc"] == pytest.approx(auc(*flat))
    assert figures["pro"] == pytest.approx(pixel_metrics(masks, maps).pro)
    assert figures["images"] == 10
    # White marks are far from anything normal: an evaluation that mixed images or masks up would not see them.
    assert figures["image_roc_auc_by_score"]["map"] == 1
    assert figures["pixel_roc_auc"] > 0.9


def test_figures_of_a_kind_compare_it_with_the_good_images(dataset, gallery_of, backbone):
    evaluation = run(dataset, gallery_of, backbone)
    figures = evaluation.summary("pooled")
    assert set(figures["kinds"]) == {"hole", "scratch"}
    chosen = [judged for judged in evaluation.judged if judged.kind in ("good", "hole")]
    labels = [judged.kind == "hole" for judged in chosen]
    scores = [judged.detection.scores["pooled"] for judged in chosen]
    assert figures["kinds"]["hole"]["image_roc_auc"] == pytest.approx(auc(labels, scores))
    assert figures["kinds"]["hole"]["images"] == 3
    json.dumps(figures)


def test_figures_do_not_depend_on_batches_or_threads(dataset, gallery_of, backbone):
    one, many = (
        run(dataset, gallery_of, backbone, batch_size=size, workers=workers).summary("both")
        for size, workers in ((1, 1), (8, 4))
    )
    assert one.pop("seconds").keys() == many.pop("seconds").keys()
    assert one == many


def test_pixels_can_be_compared_at_another_size(dataset, gallery_of, backbone):
    evaluation = run(dataset, gallery_of, backbone, metric_size=64)
    assert {judged.score_map.shape for judged in evaluation.judged} == {(64, 64)}
    assert {judged.mask.shape for judged in evaluation.judged} == {(64, 64)}
    hole = next(judged for judged in evaluation.judged if judged.kind == "hole")
    left, _, _, bottom = BOXES["hole"]
    rows, columns = np.nonzero(hole.mask)
    assert columns.min() * SIZE[0] / 64 == pytest.approx(left, abs=1)
    assert (rows.max() + 1) * SIZE[1] / 64 == pytest.approx(bottom, abs=1)


def test_the_maximum_of_a_map_is_in_the_mask_with_a_centre_crop(dataset, tmp_path):
    preprocessing = Preprocessing(input_size=(32, 32), resize=40)
    plain = tiny_backbone()
    cropped = Backbone("cropped", plain._model, preprocessing, device="cpu", precision="float32")
    build(tmp_path / "cropped", dataset / "train" / "good", cropped)
    evaluation = run(dataset, tmp_path / "cropped", cropped)
    for judged in evaluation.judged:
        if judged.kind == "hole":
            assert judged.mask.any()
            near = ndimage.binary_dilation(judged.mask, iterations=4)  # a pixel of the finest level
            assert near[np.unravel_index(judged.score_map.argmax(), judged.score_map.shape)]


def test_an_image_that_cannot_be_decoded_is_named_and_left_out(dataset, gallery_of, backbone):
    (dataset / "test" / "hole" / "001.png").write_bytes(b"")
    lines: list[str] = []
    evaluation = run(dataset, gallery_of, backbone, notice=lines.append)
    assert len(lines) == 1
    assert str(Path("test", "hole", "001.png")) in lines[0]
    assert evaluation.summary("both")["kinds"]["hole"]["images"] == 2
    assert evaluation.summary("both")["not_decoded"] == {"count": 1, "images": evaluation.failed}
    assert lines == [f"skipped {evaluation.failed[0]}"]


@pytest.mark.parametrize("contents", ["another size", "no image"])
def test_a_mask_that_does_not_fit_is_named(dataset, gallery_of, backbone, contents):
    path = dataset / "ground_truth" / "hole" / "001_mask.png"
    if contents == "no image":
        path.write_bytes(b"not a picture")
    else:
        Image.new("L", (10, 10)).save(path)
    with pytest.raises(InputError, match=r"hole/001_mask\.png") as raised:
        run(dataset, gallery_of, backbone)
    assert "\n" not in str(raised.value)


def test_without_masks_there_are_the_figures_of_images(dataset, gallery_of, backbone):
    whole = run(dataset, gallery_of, backbone).summary("both")
    shutil.rmtree(dataset / "ground_truth")
    figures = run(dataset, gallery_of, backbone).summary("both")
    for name in ("image_roc_auc", "image_average_precision", "image_f1_max", "image_roc_auc_by_score"):
        assert figures[name] == whole[name]
    for name in ("pixel_roc_auc", "pixel_average_precision", "pixel_f1_max", "pro", "pro_05"):
        assert figures[name] is None
        assert figures["kinds"]["hole"][name] is None
    assert figures["why_no_pixel_figures"] == "no defective image has a mask"
    assert whole["why_no_pixel_figures"] is None


def test_masks_of_any_values_give_the_same_figures(dataset, gallery_of, backbone):
    whole = run(dataset, gallery_of, backbone).summary("both")
    for number, path in enumerate(sorted((dataset / "ground_truth").rglob("*.png"))):
        mask = np.asarray(Image.open(path)) > 0
        path.unlink()
        value = (1, 100, 255)[number % 3]
        name = (f"{path.stem}.PNG", f"{path.stem}.bmp", f"{path.stem[:3]}.TIF")[number % 3]
        Image.fromarray((mask * value).astype(np.uint8)).save(path.with_name(name))
    figures = run(dataset, gallery_of, backbone).summary("both")
    assert whole.pop("seconds").keys() == figures.pop("seconds").keys()
    assert figures == whole


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_turned_images_and_their_masks_give_the_same_figures(dataset, gallery_of, backbone, orientation):
    whole = run(dataset, gallery_of, backbone).summary("both")
    back = {6: TURNS[8], 8: TURNS[6]}.get(orientation, TURNS[orientation])  # from upright to stored
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for path in sorted((dataset / "test").rglob("*.png")):
        Image.open(path).transpose(back).save(path, exif=exif)
    for path in sorted((dataset / "ground_truth").rglob("*.png")):
        Image.open(path).transpose(back).save(path)
    figures = run(dataset, gallery_of, backbone).summary("both")
    assert whole.pop("seconds").keys() == figures.pop("seconds").keys()
    assert figures == whole


@pytest.mark.parametrize(("value", "words"), [(0, "marks no pixel"), (9, "marks every pixel")])
def test_a_mask_of_nothing_or_everything_is_named(dataset, gallery_of, backbone, value, words):
    path = dataset / "ground_truth" / "hole" / "001_mask.png"
    Image.new("L", SIZE, value).save(path)
    lines: list[str] = []
    run(dataset, gallery_of, backbone, notice=lines.append)
    (line,) = lines
    assert str(path) in line
    assert words in line


def test_maps_of_a_large_test_set_are_not_kept(dataset, gallery_of, backbone, monkeypatch):
    whole = run(dataset, gallery_of, backbone)
    monkeypatch.setattr("spade_index.method.evaluation.KEPT", 8)
    monkeypatch.setattr("spade_index.method.evaluation.EXTREMES", 1)
    seen: list[str] = []
    few = run(dataset, gallery_of, backbone, batch_size=2, each=lambda judged: seen.append(judged.image.file.id))
    assert len(seen) == 10
    assert len(few.judged) <= 8
    for kind in ("good", "hole", "scratch"):
        scores = [judged.detection.score for judged in whole.judged if judged.kind == kind]
        kept = [judged.detection.score for judged in few.judged if judged.kind == kind]
        assert {min(scores), max(scores)} <= set(kept)
    figures, expected = few.summary("both"), whole.summary("both")
    assert figures.pop("seconds").keys() == expected.pop("seconds").keys()
    assert figures == expected
