"""The state forgets nothing that was committed, and refuses what is not its own; lines end where they should."""

import json
import sqlite3
from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.sinks.lines import JsonLines
from spade_index.watch.state import State

from helpers.journals import write_journal


def record(number: int) -> tuple[str, str]:
    return f"{number:032x}", json.dumps({"id": f"{number:032x}", "arrival": "now", "score": number})


def test_verdicts_wait_for_every_sink(tmp_path: Path) -> None:
    with State(tmp_path) as state:
        state.deliver_to(["jsonl", "webhook"])
        state.judged([record(1), record(2)])
    with State(tmp_path) as state:
        assert state.is_judged(record(1)[0])
        assert not state.is_judged(record(3)[0])
        waiting = state.undelivered("jsonl", 10)
        assert [text for _, text in waiting] == [record(1)[1], record(2)[1]]
        state.delivered("jsonl", waiting[-1][0])
        assert state.undelivered("jsonl", 10) == []
        assert (state.waiting(), len(state.undelivered("webhook", 1))) == (2, 1)
        state.deliver_to(["jsonl", "other"])
        assert (state.waiting(), state.undelivered("other", 10)) == (0, [])
        state.judged([record(3)])
        assert len(state.undelivered("other", 10)) == 1


def test_one_verdict_of_two_that_is_known_commits_neither(tmp_path: Path) -> None:
    with State(tmp_path) as state:
        state.judged([record(1)])
        with pytest.raises(Exception, match="UNIQUE"):
            state.judged([record(2), record(1)])
        assert not state.is_judged(record(2)[0])


def test_a_second_watch_is_refused(tmp_path: Path) -> None:
    with State(tmp_path), pytest.raises(InputError, match="another watch"):
        State(tmp_path)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "watch.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match="not the state of a watch"):
        State(tmp_path)
    (tmp_path / "watch.sqlite").unlink()
    (tmp_path / "watch.sqlite").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match="is a link"):
        State(tmp_path)
    (tmp_path / "watch.sqlite").unlink()
    db = sqlite3.connect(tmp_path / "watch.sqlite")
    db.execute("CREATE TABLE judged (id TEXT)")
    db.close()
    with pytest.raises(InputError, match="other tables"):
        State(tmp_path)


def test_a_journal_that_names_another_file_is_refused(tmp_path: Path) -> None:
    State(tmp_path).__exit__()
    (tmp_path / "victim").write_text("kept")
    write_journal(tmp_path / "watch.sqlite", tmp_path / "victim")
    with pytest.raises(InputError, match="names another file"):
        State(tmp_path)
    assert (tmp_path / "victim").exists()


def test_a_line_that_a_crash_cut_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text('{"id": "1"}\n{"id": "2", "sco')
    lines = JsonLines(path)
    lines.deliver([record(2)[1]])
    lines.close()
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {"id": "1"}
    assert second == {"id": record(2)[0], "arrival": "now", "delivered_by": "jsonl", "score": 2}


def test_a_file_of_others_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("without an end")
    with pytest.raises(InputError, match="is no verdict"):
        JsonLines(tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "without an end"
