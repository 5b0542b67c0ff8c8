"""A push or a pull that is killed at any moment leaves what was there, and the same command carries on."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.remote import replace

from helpers.remote import URL, contents, grow, pull, push
from helpers.s3_server import S3, Handler, silent
from helpers.warm import PROGRAM, Warm

Command = list[object]


def killed_at(s3: S3, request: int, command: Command) -> None:
    """Run a command and kill it while it waits for the answer to its request of this number."""
    reached = threading.Event()
    left = [request]

    def hold(handler: Handler) -> bool:
        left[0] -= 1
        if left[0]:
            return False
        reached.set()
        silent(1.0)(handler)
        return True

    s3.fault = hold
    process = Warm(PROGRAM, *command, environment={**os.environ, **s3.environment()})
    try:
        assert reached.wait(60)
    finally:
        process.kill()
    assert process.wait(20) == -signal.SIGKILL
    s3.fault = lambda handler: False


@pytest.mark.parametrize("request_number", [3, 5, 7])
def test_a_killed_push(request_number: int, s3: S3, gallery_path: Path, tmp_path: Path) -> None:
    push(gallery_path)
    before = contents(gallery_path)
    grow(gallery_path, tmp_path, 1)
    killed_at(s3, request_number, ["push", gallery_path, URL])
    pull(tmp_path / "back")
    assert contents(tmp_path / "back") == before
    push(gallery_path)
    pull(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(gallery_path)


@pytest.mark.parametrize("request_number", [2, 4, 7])
def test_a_killed_pull(request_number: int, s3: S3, gallery_path: Path, tmp_path: Path) -> None:
    push(gallery_path)
    killed_at(s3, request_number, ["pull", URL, tmp_path / "back"])
    assert not (tmp_path / "back").exists()
    pull(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(gallery_path)


def test_a_pull_that_ends_between_its_two_renames(
    s3: S3, gallery_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(gallery_path)
    pull(tmp_path / "back")
    grow(gallery_path, tmp_path, 1)
    push(gallery_path)
    monkeypatch.setattr(replace.os, "rename", ending_after(1, os.rename))
    with pytest.raises(KeyboardInterrupt):
        pull(tmp_path / "back")
    monkeypatch.undo()
    assert not (tmp_path / "back").exists()
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    assert pull(tmp_path / "back") == 0
    assert contents(tmp_path / "back") == contents(gallery_path)
    assert not (tmp_path / ".back.before").exists()
    with Gallery(tmp_path / "back") as gallery:
        assert list(gallery.verify()) == []


def ending_after(count: int, rename: Callable[..., None]) -> Callable[..., None]:
    """Return a rename of folders that is interrupted after some of them."""
    left = [count]

    def call(source: Path, target: Path) -> None:
        if source.is_dir():
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        rename(source, target)

    return call
