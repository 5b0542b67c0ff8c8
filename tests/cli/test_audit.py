"""`spade-index audit`: text, JSON and page."""

import re
from pathlib import Path

from helpers.cli_runs import objects, refused, run


def test_each_line_names_the_command_that_removes_its_image(gallery: Path) -> None:
    run("calibrate", gallery)
    first, *others = run("audit", gallery, "--count", 3).stdout.splitlines()
    assert len([line for line in others if "spade-index remove" in line]) == 2
    command = re.search(r"\(spade-index (remove .*)\)$", first)
    assert command is not None
    run(*command[1].split())
    assert command[1].split()[-1] not in run("list", gallery).stdout.split()


def test_json_is_one_object(gallery: Path) -> None:
    run("calibrate", gallery)
    (found,) = objects(run("audit", gallery, "--json"))
    assert (found["scored"], len(found["odd"])) == (12, 12)
    assert set(found["odd"][0]) == {"id", "path", "score", "p_value"}
    assert [image["score"] for image in found["odd"]] == sorted((i["score"] for i in found["odd"]), reverse=True)


def test_the_number_of_ranked_images_is_told(gallery: Path, tmp_path: Path) -> None:
    run("calibrate", gallery, "--sample", 10)
    told = run("audit", gallery)
    assert "ranked 10 of 12 images" in told.stdout
    assert f"`spade-index audit {gallery} --all` ranks all" in told.stderr
    (found,) = objects(run("audit", gallery, "--json"))
    assert (found["scored"], found["images"], found["compared"]) == (10, 12, 12)
    told = run("audit", gallery, "--all", "--report", tmp_path / "audit.html")
    assert "ranked 12 of 12 images" in told.stdout
    assert "--all" not in told.stderr
    assert "12 of 12 images, each scored without itself" in (tmp_path / "audit.html").read_text()


def test_the_page_shows_each_image_with_its_map(gallery: Path, tmp_path: Path) -> None:
    run("calibrate", gallery)
    run("audit", gallery, "--count", 2, "--report", tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text()
    (found,) = objects(run("audit", gallery, "--count", 2, "--json"))
    for image in found["odd"]:
        assert f"Heat map of {image['id']}" in page
    assert "data:image/jpeg" in page


def test_a_gallery_that_is_not_calibrated_is_refused_in_one_line(gallery: Path) -> None:
    assert f"`spade-index calibrate {gallery}`" in refused("audit", gallery)
