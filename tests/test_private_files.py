"""Files of secrets are read once, and never waited for without end."""

import os
import threading
from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.private_files import read_private, shared_with_group


def test_a_pipe_that_nobody_writes_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys", 0o600)
    with pytest.raises(InputError, match="nobody"):
        read_private(tmp_path / "keys", patience=0.05)


def test_a_pipe_that_is_written_late_and_in_parts_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys", 0o600)

    def write() -> None:
        with open(tmp_path / "keys", "wb", buffering=0) as pipe:
            pipe.write(b"one ")
            pipe.write(b"two")

    writer = threading.Thread(target=write)
    writer.start()
    assert read_private(tmp_path / "keys") == b"one two"
    writer.join()


def test_a_device_a_folder_and_a_long_file_are_refused(tmp_path: Path) -> None:
    for path in (Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="not a file"):
            read_private(path)
    (tmp_path / "long").write_bytes(bytes(101))
    (tmp_path / "long").chmod(0o600)
    with pytest.raises(InputError, match="100 bytes"):
        read_private(tmp_path / "long", most=100)


def test_who_else_can_use_a_file_is_refused_or_said(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("secret")
    for mode, group, refused, said in (
        (0o600, False, False, False),
        (0o640, False, True, True),
        (0o640, True, False, True),
        (0o604, True, True, False),
    ):
        file.chmod(mode)
        assert (shared_with_group(file) is not None) == said
        if refused:
            with pytest.raises(InputError, match="chmod 600"):
                read_private(file, group=group)
        else:
            assert read_private(file, group=group) == b"secret"
