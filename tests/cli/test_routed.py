"""`query ROOT IMAGES`: each image is scored by the gallery that it belongs to."""

from pathlib import Path

import pytest
from PIL import Image

from helpers.cli_runs import BACKBONE, SIZE, copied, normal, objects, refused, run
from helpers.tiny import random_image


@pytest.fixture(scope="module")
def root(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two galleries, of one that is too small, and of one that cannot be read."""
    root = tmp_path_factory.mktemp("routed")
    copied(built, root / "objects")
    for name, count in (("greys", 6), ("few", 1)):
        (root / "images" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", SIZE, (90 + 6 * number,) * 3).save(root / "images" / name / f"{number}.png")
        run("build", root / "images" / name, root / name, *BACKBONE)
    (root / "damaged").mkdir()
    (root / "damaged" / "catalog.sqlite").write_bytes(b"no catalog")
    return root


@pytest.fixture
def suspects(tmp_path: Path) -> Path:
    """An image of each gallery, and one of none."""
    folder = tmp_path / "suspects"
    folder.mkdir()
    normal(100).save(folder / "object.png")
    Image.new("RGB", SIZE, (101,) * 3).save(folder / "grey.png")
    random_image(9, SIZE).save(folder / "other.png")
    return folder


def test_each_image_is_answered_by_its_gallery_or_by_none(root, suspects):
    result = run("query", root, suspects, "--json")
    answers = {answer["image"]: answer for answer in objects(result)}
    routes = {image: answer["route"] for image, answer in answers.items()}
    assert {image: route["gallery"] for image, route in routes.items() if route["taken"]} == {
        "object.png": "objects",
        "grey.png": "greys",
    }
    assert "score" not in answers["other.png"]
    assert routes["other.png"]["share"] == 1
    assert "few: not asked: it has fewer than 3 images" in result.stderr
    assert "damaged" in result.stderr
    (alone,) = objects(run("query", root / "objects", suspects / "object.png", "--json"))
    del answers["object.png"]["route"]
    assert answers["object.png"]["score"] == pytest.approx(alone["score"], rel=1e-5)


def test_lines_name_the_gallery(root, suspects):
    lines = run("query", root, suspects).stdout.splitlines()
    assert any("of no gallery; nearest is" in line for line in lines)
    assert any("greys: farther than" in line for line in lines)


def test_options_of_one_gallery_are_refused(root, suspects, tmp_path):
    for option in (["--out", tmp_path / "out"], ["--threshold", "1"], ["--snapshot", "1"]):
        assert "is a folder of galleries" in refused("query", root, suspects, *option)
