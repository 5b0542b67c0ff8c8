"""Workers of a cluster find the problems of a gallery that one process finds, in the same lines and order."""

import shutil
from pathlib import Path

import pytest

from spade_index.cluster import checking
from spade_index.cluster.checking import checking_on
from spade_index.errors import ClusterError
from spade_index.gallery import Gallery

from helpers.cli_runs import run
from helpers.clusters import processes
from helpers.damage import damage, damage_outside, shard_of
from helpers.tiny import build, tiny_backbone, write_images

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of 12 shards, some of which are damaged."""
    folder = tmp_path_factory.mktemp("checked")
    path, images = folder / "gallery", write_images(folder / "images", 24)
    build(path, images, tiny_backbone(), shard_rows=2, batch_size=2)
    damage(path, "021.png")
    damage_outside(path, "003.png")
    shard_of(path, "009.png").unlink()
    shard_of(path, "014.png").write_bytes(b"")
    return path


def test_the_same_problems_as_by_one_process_and_a_lost_workers_shards_are_checked_again(
    gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(gallery.parent)
    told: list[str] = []
    checked: list[int] = []

    def kill_at_first(count: int) -> None:
        if not checked:
            processes(there.args[0])[0].kill()
        checked.append(count)

    with Gallery(gallery.name) as opened:
        with checking_on("local", opened, workers=2, say=told.append) as there:
            found = list(opened.problems(kill_at_first, there))
        here: list[int] = []
        assert found == list(opened.problems(here.append))
        assert sum(checked) == sum(here) > 0
    assert [problem.line.split(": ")[0].rpartition("/")[0] for problem in found] == [f"{gallery.name}/shards"] * 4
    (line,) = told
    assert "was lost" in line


def test_workers_that_do_not_see_the_gallery(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "identity_of", lambda gallery: "another")
    lost = pytest.raises(ClusterError, match=r"gallery: the worker on .* does not see this gallery: put it on")
    with Gallery(gallery) as opened, checking_on("local", opened, workers=1) as there, lost:
        list(opened.problems(elsewhere=there))


def test_verify_and_repair_as_without_ray(gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for name, options in (("here", []), ("there", ["--ray", "local", "--workers", "1"])):
        shutil.copytree(gallery, tmp_path / name / "gallery")
        monkeypatch.chdir(tmp_path / name)
        found = run("verify", "gallery", *options, status=1)
        repaired = run("verify", "gallery", "--repair", *options)
        said.append([found.stdout, found.stderr, repaired.stdout, repaired.stderr])
    assert said[0] == said[1]
    assert "4 problems" in said[0][1]
