"""What a watch remembers: images that were judged, and verdicts that are not delivered everywhere.

    STATE/watch.sqlite    in WAL mode, and the two files that SQLite keeps beside it
    STATE/watch.lock      held by the one process that uses it
    STATE/refused.jsonl   verdicts that a receiver refused for good

A judgement and its verdict are one commit.
"""

from collections.abc import Sequence

from spade_index.sinks.spool import Spool


class State(Spool):
    """The state of one watch: its spool, and the ids of what it has judged."""

    name = "watch"
    owner = "watch"
    tables = ("CREATE TABLE judged (id TEXT PRIMARY KEY) WITHOUT ROWID", *Spool.tables)

    def is_judged(self, id: str) -> bool:
        """Return whether the verdict of this id was given. Raises SpoolError."""
        with self._errors():
            return self._db.execute("SELECT 1 FROM judged WHERE id = ?", (id,)).fetchone() is not None

    def judged(self, records: Sequence[tuple[str, str]]) -> None:
        """Note verdicts, (id, record in JSON), in their order, to be delivered: all or none. Raises SpoolError."""
        with self._errors(), self._transaction():
            self._db.executemany("INSERT INTO judged VALUES (?)", [(id,) for id, _ in records])
            self._insert([record for _, record in records])
