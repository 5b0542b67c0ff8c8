"""A server of S3 that is not ours, and that checks signatures: what a user does with a gallery there."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spade_index.benchmarks.moto_server import BUCKET, MotoServer
from spade_index.errors import GalleryNotFound, RemoteError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.location import Location
from spade_index.gallery.remote.push import Push
from spade_index.gallery.remote.store import PART, Remote
from spade_index.images import DecodedImage

from helpers.cli_runs import BACKBONE, objects, refused, run, write_normal
from helpers.moto import checking_moto
from helpers.remote import QUICK, answers, contents, grow, opened, pull, push

Decoded = Callable[..., list[DecodedImage]]
prefixes = itertools.count()


@pytest.fixture(scope="module")
def _checking() -> Iterator[tuple[MotoServer, dict[str, str]]]:
    with checking_moto() as found:
        yield found


@pytest.fixture
def moto(_checking: tuple[MotoServer, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MotoServer:
    """A server that the environment names, and a cache of its own for each test."""
    server, environment = _checking
    for name, value in {**environment, "SPADE_INDEX_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def place(moto: MotoServer) -> Location:
    """A place of its own for each test, with characters that URLs and signatures write otherwise.

    There is no blank, ~ or * among them: moto computes another signature for lists of such prefixes than Amazon does.
    """
    return Location.parse(f"s3://{BUCKET}/line-{next(prefixes)}/täfelchen+(a)")


def test_the_answers_are_those_of_the_disk_also_after_another_push(
    place: Location, calibrated: Path, decoded: Decoded, backbone: Backbone, tmp_path: Path
) -> None:
    push(calibrated, place)
    with Gallery(calibrated) as here:
        first = answers(here, decoded(), backbone)
    with opened(tmp_path / "cache", place) as before:
        assert answers(before, decoded(), backbone) == first
        grow(calibrated, tmp_path, 1)
        assert push(calibrated, place) > 0
        assert answers(before, decoded(), backbone) == first  # as it was when it was opened
    with Gallery(calibrated) as here, opened(tmp_path / "cache", place) as there:
        assert len(there) == len(here) == 15
        assert answers(there, decoded(), backbone) == answers(here, decoded(), backbone) != first
    pull(tmp_path / "back", place)
    assert contents(tmp_path / "back") == contents(calibrated)
    with Gallery(tmp_path / "back") as back:
        assert list(back.verify()) == []


def test_what_was_read_is_not_asked_for_again(
    moto: MotoServer, place: Location, calibrated: Path, decoded: Decoded, backbone: Backbone, tmp_path: Path
) -> None:
    push(calibrated, place)
    with opened(tmp_path / "cache", place) as there:
        first = answers(there, decoded(), backbone)
    before = moto.counts()
    with opened(tmp_path / "cache", place) as there:
        assert answers(there, decoded(), backbone) == first
    assert (moto.counts() - before).requests == 1  # gallery.json


def test_a_large_object_is_stored_in_parts_and_read_by_ranges(place: Location) -> None:
    data = bytes(range(251)) * (2 * PART // 251 + 1000)
    remote = Remote(place, QUICK)
    remote.put("object", lambda: (data[start : start + 70_000] for start in range(0, len(data), 70_000)), len(data))
    assert remote.sizes() == {"object": len(data)}
    wanted = [(0, 10), (PART - 5, 10), (len(data) - 7, 7)]
    assert [bytes(part) for part in remote.ranges("object", wanted)] == [
        data[start : start + length] for start, length in wanted
    ]


def test_of_two_pushes_at_a_time_the_second_is_refused(place: Location, gallery_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(gallery_path, tmp_path / "copy"))
    for round in (1, 2):  # gallery.json is made, and then replaced
        grow(copy, tmp_path, round)
        with Push(gallery_path, place, QUICK) as late:
            push(copy, place)
            with pytest.raises(RemoteError, match="another process has pushed to it meanwhile"):
                late.send()
        pull(tmp_path / "back", place)
        assert contents(tmp_path / "back") == contents(copy)
        gallery_path = Path(shutil.copytree(copy, tmp_path / f"copy-{round}"))


@pytest.mark.parametrize(
    ("variable", "code"),
    [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")],
)
def test_wrong_credentials_are_one_line(
    variable: str, code: str, place: Location, gallery_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    push(gallery_path, place)
    monkeypatch.setenv(variable, "another")
    for use in (lambda: push(gallery_path, place), lambda: pull(tmp_path / "back", place)):
        with pytest.raises(RemoteError) as raised:
            use()
        assert f"{place}: access is refused (403 {code}): check $AWS_ACCESS_KEY_ID" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_missing_bucket_and_a_wrong_prefix_are_named(place: Location, gallery_path: Path, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="there is no bucket 'elsewhere': make it, or correct the URL"):
        push(gallery_path, Location.parse("s3://elsewhere/gallery"))
    with pytest.raises(GalleryNotFound, match="no gallery there; `spade-index push"):
        opened(tmp_path / "cache", place)


@pytest.mark.usefixtures("quick_tuning")
def test_what_a_user_does_on_the_command_line(place: Location, tmp_path: Path) -> None:
    url, gallery = str(place), tmp_path / "gallery"
    queries = write_normal(tmp_path / "queries", 2, start=50)
    run("build", write_normal(tmp_path / "images", 8), gallery, *BACKBONE)
    assert "8 images at snapshot" in run("push", gallery, url).stdout

    def found(address: object) -> object:
        return objects(run("query", address, queries, "--json", "--maps", "always"))

    first = found(gallery)
    assert found(url) == first
    run("add", gallery, write_normal(tmp_path / "more" / "b", 3, start=20).parent)
    run("calibrate", gallery)
    assert found(url) == first
    run("push", gallery, url)
    assert found(url) == found(gallery) != first
    run("pull", url, tmp_path / "back")
    assert "no problems" in run("verify", tmp_path / "back").stdout
    assert found(tmp_path / "back") == found(gallery)
    assert "no gallery there" in refused("query", f"{url}/elsewhere", queries)
    assert "there is no bucket 'elsewhere'" in refused("query", "s3://elsewhere/gallery", queries)
