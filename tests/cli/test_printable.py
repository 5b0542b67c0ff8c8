"""What comes from files is printed so that a terminal obeys none of it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from spade_index.gallery.catalog import check

from helpers.cli_runs import refused, run

ODD = "a\x1b[2Jb\x7f\u202ec\r"
SHOWN = r"a\x1b[2Jb\x7f\u202ec\r"


def changed(gallery: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(gallery / "catalog.sqlite", isolation_level=None)) as db:
        db.execute(statement, values)
    check.write(gallery / "catalog.sqlite")


@pytest.mark.parametrize("command", ["verify", "info", "list"])
def test_a_message_about_a_malformed_schema_is_printable(gallery: Path, command: str) -> None:
    path = gallery / "catalog.sqlite"
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE meta", b"CREATE TABL\x7f meta"))
    assert refused(command, gallery).isprintable()


def test_ids_are_printable(gallery: Path) -> None:
    changed(gallery, "UPDATE images SET id = ?, path = ? WHERE id = '003.png'", ODD, ODD)
    printed = run("list", gallery, "--long").stdout
    assert printed.count(SHOWN) == 2
    assert printed.replace("\n", "").replace("\t", "").isprintable()
