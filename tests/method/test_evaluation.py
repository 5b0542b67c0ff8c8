"""An evaluation's figures are those of its scores, maps and masks; a dataset that lacks something is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import Image
from scipy import ndimage

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.images import covered, load
from spade_index.images.masks import read_mask
from spade_index.method.dataset import find_test_images
from spade_index.method.detector import Detector
from spade_index.method.evaluation import Evaluation, evaluate
from spade_index.method.metrics import pixel_metrics
from spade_index.settings import Preprocessing, SearchSettings

from helpers.tiny import INPUT, build, random_image, tiny_backbone

SIZE = (48, 40)
SEARCH = SearchSettings(gallery_neighbours=4, score_neighbours=2, smoothing=1.0)
BOXES = {"scratch": (4, 20, 40, 24), "hole": (24, 8, 34, 18)}


def normal(seed: int) -> Image.Image:
    """The same object every time, under other noise."""
    noise = np.random.default_rng(seed).integers(-10, 11, (SIZE[1], SIZE[0], 3))
    return Image.fromarray((np.asarray(random_image(1, SIZE)).astype(int) + noise).clip(0, 255).astype(np.uint8))


def write_dataset(root: Path, good: int = 4, bad: int = 3) -> Path:
    """A dataset in MVTec layout: a white scratch and a white hole."""
    for folder, count, start in ((root / "train" / "good", 12, 0), (root / "test" / "good", good, 100)):
        folder.mkdir(parents=True)
        for number in range(count):
            normal(start + number).save(folder / f"{number:03d}.png")
    for kind, box in BOXES.items():
        (root / "test" / kind).mkdir()
        (root / "ground_truth" / kind).mkdir(parents=True)
        for number in range(bad):
            image, mask = normal(200 + number), Image.new("L", SIZE)
            image.paste("white", box)
            mask.paste(255, box)
            image.save(root / "test" / kind / f"{number:03d}.png")
            mask.save(root / "ground_truth" / kind / f"{number:03d}_mask.png")
    return root


def run(root: Path, gallery_path: Path, backbone: Backbone, **options: object) -> Evaluation:
    with Gallery(gallery_path) as gallery:
        return evaluate(Detector(gallery, backbone, SEARCH), find_test_images(root), **options)


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """The share of pairs in which the defective one scores higher."""
    defective, values = np.asarray(labels), np.asarray(scores)
    differences = values[defective][:, None] - values[~defective]
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset")


@pytest.fixture
def gallery_of(dataset: Path, tmp_path: Path, backbone: Backbone) -> Path:
    build(tmp_path / "of-dataset", dataset / "train" / "good", backbone)
    return tmp_path / "of-dataset"


def test_the_test_set_is_found_with_its_masks(dataset):
    found = find_test_images(dataset)
    assert [image.file.id for image in found] == [
        *(f"good/{n:03d}.png" for n in range(4)),
        *(f"{kind}/{n:03d}.png" for kind in ("hole", "scratch") for n in range(3)),
    ]
    assert [image.kind for image in found[4:]] == ["hole"] * 3 + ["scratch"] * 3
    assert all(image.mask is None for image in found[:4])
    assert found[4].mask == dataset / "ground_truth" / "hole" / "000_mask.png"


def test_figures_equal_those_computed_directly(dataset, gallery_of, backbone):
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


def test_figures_of_a_kind_are_against_the_good_images(dataset, gallery_of, backbone):
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


def test_the_maximum_of_a_map_lies_in_the_mask_with_a_centre_crop(dataset, tmp_path):
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


def test_a_mask_counts_from_grey_level_128(tmp_path):
    Image.fromarray(np.array([[0, 1, 127, 128, 129, 255]], np.uint8)).save(tmp_path / "m.png")
    geometry = covered(6, 1, Preprocessing(input_size=(16, 16)))
    mask = read_mask(tmp_path / "m.png", geometry, (1, 6))
    assert mask.tolist() == [[False, False, False, True, True, True]]


def test_a_mask_is_cropped_as_its_image_is(tmp_path):
    mask = np.zeros((100, 200), np.uint8)
    mask[10:90, 60:140] = 255  # what is left of the crop: 80 of 100 pixels, from the middle
    Image.fromarray(mask).save(tmp_path / "m.png")
    geometry = covered(200, 100, Preprocessing(input_size=(64, 64), resize=80))
    assert geometry.box == (60, 10, 140, 90)
    assert read_mask(tmp_path / "m.png", geometry, (64, 64)).all()
    mask[10, 60] = 0
    Image.fromarray(mask).save(tmp_path / "m.png")
    cropped = read_mask(tmp_path / "m.png", geometry, (80, 80))
    assert not cropped[0, 0]
    assert cropped.sum() == 80 * 80 - 1


def test_no_mask_is_nothing_defective():
    geometry = covered(6, 4, Preprocessing(input_size=(16, 16)))
    assert not read_mask(None, geometry, (16, 16)).any()


def test_an_image_that_cannot_be_decoded_is_named_and_left_out(dataset, gallery_of, backbone):
    (dataset / "test" / "hole" / "001.png").write_bytes(b"")
    lines: list[str] = []
    evaluation = run(dataset, gallery_of, backbone, notice=lines.append)
    assert len(lines) == 1
    assert str(Path("test", "hole", "001.png")) in lines[0]
    assert evaluation.summary("both")["kinds"]["hole"]["images"] == 2


@pytest.mark.parametrize(
    ("folder", "words"),
    [("test/good", "test/good"), ("test", "test/good"), ("ground_truth/hole", "has no mask")],
)
def test_a_dataset_that_lacks_a_folder_is_refused(dataset, folder, words):
    (dataset / folder).rename(dataset.parent / "elsewhere")
    with pytest.raises(InputError, match=words) as raised:
        find_test_images(dataset)
    assert str(dataset) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_dataset_without_defects_is_refused(tmp_path):
    root = write_dataset(tmp_path / "dataset", bad=0)
    with pytest.raises(InputError, match="test/KIND"):
        find_test_images(root)


def test_a_missing_mask_names_its_image(dataset):
    (dataset / "ground_truth" / "hole" / "001_mask.png").unlink()
    with pytest.raises(InputError, match=r"test/hole/001\.png: has no mask"):
        find_test_images(dataset)


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
