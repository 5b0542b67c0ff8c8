"""Commands with `--ray`: a cluster that they start themselves, the gallery that they make, and what they answer."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from spade_index.cluster import searching
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.files import file_digest
from spade_index.gallery.store.leave_one_out import FOLDER

from helpers.cli_runs import BACKBONE, copied, refused, run, write_dataset, write_normal
from helpers.clusters import require_same
from helpers.warm import PROGRAM, Warm

ON_RAY = ["--ray", "local", "--workers", "2"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal images in two folders."""
    folder = tmp_path_factory.mktemp("photographs")
    write_normal(folder / "first", 6)
    write_normal(folder / "more", 3, start=6)
    (folder / "more" / "broken.png").write_bytes(b"")
    return folder


def test_who_has_no_token_is_kept_out(cluster: ModuleType, photographs: Path, tmp_path: Path) -> None:
    address = cluster.get_runtime_context().gcs_address
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    others |= {"HOME": str(tmp_path), "RAY_NUM_REDIS_GET_RETRIES": "1"}  # which take a second each
    command = ["build", photographs / "first", tmp_path / "gallery", *BACKBONE, "--ray", address]
    with open(tmp_path / "said", "w+") as said, Warm(PROGRAM, *command, stderr=said, environment=others) as ended:
        assert ended.wait(100) == 1
    *_, line = (tmp_path / "said").read_text().splitlines()
    assert line.startswith(f"spade-index: no Ray cluster at {address}: ")
    assert "InvalidAuthToken" in line


@pytest.mark.usefixtures("cluster")
def test_build_and_add_as_without_ray(photographs: Path, tmp_path: Path) -> None:
    lines = []
    for name, options in (("whole", []), ("gallery", ON_RAY)):
        path = tmp_path / name
        built = run("build", photographs / "first", path, *BACKBONE, "--no-tune", *options)
        added = run("add", path, photographs / "more", "--prefix", "more/", *options[:2], "--workers", "1")
        lines.append([*built.output.splitlines(), *added.output.splitlines()])
    assert lines[0] == lines[1]
    assert any("broken.png" in line for line in lines[0])
    require_same(tmp_path / "gallery", tmp_path / "whole")


def test_a_share_of_a_gpu_and_replicas_are_of_a_cluster(photographs: Path, tmp_path: Path) -> None:
    told = run("build", photographs / "first", tmp_path / "gallery", "--gpus-per-worker", "1", status=2)
    assert "--gpus-per-worker needs --ray" in told.stderr
    told = run("query", tmp_path, photographs / "first", "--replicas", "2", status=2)
    assert "--replicas needs --ray" in told.stderr


@pytest.mark.usefixtures("cluster")
def test_query_and_evaluate_as_without_ray(tmp_path: Path) -> None:
    dataset, gallery = write_dataset(tmp_path / "dataset"), tmp_path / "gallery"
    run("build", dataset / "train" / "good", gallery, *BACKBONE, "--no-tune")
    answers, figures = [], []
    for options in ([], ON_RAY):
        asked = run("query", gallery, dataset / "test", "--json", *options)
        answers.append(asked.stdout)
        run("evaluate", dataset, "--gallery", gallery, "--json", tmp_path / "figures.json", *options[:2])
        figures.append(json.loads((tmp_path / "figures.json").read_text()))
    assert answers[0] == answers[1]
    *_, line = asked.stderr.splitlines()
    assert line.startswith("pixel search by workers (2): for each query ")
    pools = [of.pop("map_pool") for of in figures]
    assert pools[1]["queries"] == 6
    assert pools[1]["bytes_back"] > 0
    for of in figures:
        del of["seconds"]
    assert figures[0] == figures[1]


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two galleries of the same images."""
    folder = tmp_path_factory.mktemp("alike")
    run("build", write_normal(folder / "images", 20), folder / "here" / "gallery", *BACKBONE, "--no-tune")
    return [folder / "here" / "gallery", copied(folder / "here" / "gallery", folder / "there" / "gallery")]


def calibrated(path: Path) -> list[str]:
    """Return the digests of a gallery's calibrations; a worker that is going may keep a file that was replaced."""
    with Gallery(path) as gallery:
        return [file_digest(path / FOLDER / str(found["file"])) for found in gallery.catalog.calibrations()]


@pytest.mark.usefixtures("cluster")
def test_calibrate_and_audit_as_without_ray(alike: list[Path], tmp_path: Path) -> None:
    lines, records, stored, audits = [], [], [], []
    for gallery, options in zip(alike, ([], ON_RAY), strict=True):
        told = run("calibrate", gallery, "--check-splits", 2, "--json", tmp_path / "found.json", *options)
        lines.append(told.stdout)
        records.append(json.loads((tmp_path / "found.json").read_text()))
        del records[-1]["created"]
        stored.append(calibrated(gallery))
        run("calibrate", gallery, "--sample", "10")
        told = run("audit", gallery, "--all", "--json", "--report", tmp_path / "page.html", *options)
        audits.append([told.stdout, (tmp_path / "page.html").read_text().replace(str(gallery), "GALLERY")])
    assert lines[0] == lines[1]
    assert records[0] == records[1]
    assert stored[0] == stored[1] != []
    assert audits[0] == audits[1]
    assert json.loads(audits[0][0])["scored"] == 20
    told = run("audit", gallery, "--ray", "local", status=2)
    assert "--ray needs --all or --report" in told.stderr


@pytest.mark.usefixtures("cluster")
def test_tune_calibrates_as_without_ray(alike: list[Path]) -> None:
    _, gallery = alike
    run("tune", gallery, "--seconds", 1, *ON_RAY)
    found = calibrated(gallery)
    run("calibrate", gallery)
    assert found == calibrated(gallery)


@pytest.mark.usefixtures("cluster", "quick_tuning")
def test_build_tunes_and_calibrates_and_add_calibrates_on_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched, found = [], []

    class Watched(searching.SearchOnCrew):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            searched.append(self)

    monkeypatch.setattr(searching, "SearchOnCrew", Watched)
    images, gallery = write_normal(tmp_path / "images", 20), tmp_path / "gallery"
    more = write_normal(tmp_path / "more" / "b", 2, start=20).parent
    built = run("build", images, gallery, *BACKBONE, *ON_RAY)
    assert "tuned: " in built.stdout
    (judging,) = searched
    assert judging.travelled.queries > 20
    here = copied(gallery, tmp_path / "here" / "gallery")
    built_here = calibrated(gallery)
    run("calibrate", here)
    assert calibrated(here) == built_here
    for path, options in ((here, []), (gallery, ON_RAY)):
        run("add", path, more, *options)
        found.append(calibrated(path))
    assert found[0] == found[1] != built_here
    assert [one.travelled.queries for one in searched[1:]] == [2]  # those that came


def test_what_is_not_searched_on_a_cluster(photographs: Path, tmp_path: Path) -> None:
    run("build", photographs / "first", tmp_path / "galleries" / "one", *BACKBONE, "--no-tune")
    told = refused("query", tmp_path / "galleries", photographs / "first", "--ray", "local")
    assert "--ray need one gallery" in told
    told = run("evaluate", tmp_path / "dataset", "--ray", "local", status=2).stderr
    assert "--ray needs --gallery" in told
    for command in ("serve", "calibrate", "audit", "tune"):
        assert "--workers needs --ray" in run(command, tmp_path / "galleries", "--workers", "2", status=2).stderr


def listening(pid: int) -> set[str]:
    """Return the addresses at which a process and those that it has started wait for connections."""
    found = set()
    with suppress(psutil.NoSuchProcess):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                sockets = process.net_connections("inet")
                found |= {
                    socket.laddr.ip.removeprefix("::ffff:") for socket in sockets if socket.status == psutil.CONN_LISTEN
                }
    return found


def test_a_cluster_of_its_own_is_reached_from_this_machine_alone(photographs: Path, tmp_path: Path) -> None:
    command = ["build", photographs / "first", tmp_path / "gallery", *BACKBONE, "--no-tune", "--ray", "local"]
    addresses = set()
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    with open(tmp_path / "output", "w") as output, open(tmp_path / "errors", "w") as errors:
        process = Warm(PROGRAM, *command, stdout=output, stderr=errors, environment=environment)
        while process.poll() is None:
            addresses |= listening(process.pid)
            time.sleep(1)  # a look takes a while itself
    assert (tmp_path / "errors").read_text() == ""
    assert process.returncode == 0
    assert (tmp_path / "output").read_text() == "6 added; 6 images at snapshot 1\n"
    assert addresses == {"127.0.0.1"}
    assert not (home / ".ray").exists()  # Ray would keep a token there, which all may read
