"""Watch: look, judge, note, deliver, and go on whatever fails meanwhile."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from spade_index.errors import SpadeIndexError
from spade_index.exact import strict_json
from spade_index.sinks.contract import Sink
from spade_index.sinks.posting import Post
from spade_index.sinks.spool import SpoolError

from .folder import Arrival, Folder
from .settings import WatchSettings
from .state import State

NAP = 0.1  # seconds after which a wait looks whether it should end


class Judging(Protocol):
    """What gives verdicts; see `judge.Judge`."""

    @property
    def lot(self) -> int:
        """The images that are judged together."""

    @property
    def is_mask(self) -> Callable[[str], bool]:
        """Whether a name below the folder is that of a mask."""

    def verdicts(self, arrivals: Sequence[Arrival]) -> list[dict[str, Any]]:
        """Return the records of at most `lot` files."""


class Watch:
    """One folder, one gallery, and the sinks of its verdicts."""

    def __init__(
        self,
        folder: Folder,
        state: State,
        sinks: Sequence[Sink],
        judging: Callable[[], Judging],
        settings: WatchSettings,
        say: Callable[[str], None],
    ) -> None:
        """Watch a folder.

        Args:
            judging: returns the judge of the gallery as it is now. Raises SpadeIndexError.
            say: prints a line, for a person.
        """
        self._folder, self._state, self._settings = folder, state, settings
        self._judging, self._tell = judging, say
        self._posts = [Post(sink, state) for sink in sinks]
        self._said: dict[str, str] = {}  # what is wrong, by where, so that it is said once
        self._stopped = False
        state.deliver_to([sink.name for sink in sinks])

    def stop(self) -> None:
        """End after the images at hand; safe in a signal handler."""
        self._stopped = True

    def run(self) -> bool:
        """Watch until it is stopped or, once, until all is judged; return whether all verdicts are delivered."""
        while not self._stopped:
            if self._step():
                continue
            if self._settings.once and (self._said or not self._folder.settling):
                break
            self._sleep()
        try:
            return self._state.waiting() == 0 and not self._said
        except SpoolError:
            return False

    def _step(self) -> int:
        """Look once, judge what is found, and deliver; return the number of images that were taken."""
        try:
            self._deliver()
            if self._state.waiting() >= self._settings.spool:
                self._say("spool", f"{self._settings.spool:,} verdicts wait for their receiver: nothing more is judged")
                return 0
            self._mended("spool")
            taken = self._judge()
            self._mended("state")
            return taken
        except SpoolError as error:
            self._say("state", str(error))
            return 0

    def _judge(self) -> int:
        taken = 0
        try:
            judge = self._judging()
            found = self._look(judge.is_mask)
            while found and not self._stopped:
                lot, found = found[: judge.lot], found[judge.lot :]
                records = judge.verdicts(lot)
                self._state.judged([(record["id"], strict_json(record)) for record in records])
                taken += len(lot)
                self._deliver()
        except SpoolError:
            raise
        except SpadeIndexError as error:  # another may take its place meanwhile, or it is mended
            self._say("gallery", str(error))
            return 0
        self._mended("gallery")
        return taken

    def _look(self, is_mask: Callable[[str], bool]) -> list[Arrival]:
        try:
            found = self._folder.look(self._settings.queue, lambda arrival: self._state.is_judged(arrival.id), is_mask)
        except OSError as error:
            self._say("folder", f"{error.filename or self._folder.path}: {error.strerror}")
            return []
        self._mended("folder")
        return found

    def _deliver(self) -> None:
        for post in self._posts:
            while post.step():
                pass
            if post.reason is not None:
                self._say(post.name, post.reason)
            else:
                self._mended(post.name)

    def _say(self, where: str, what: str) -> None:
        if self._said.get(where) != what:
            self._said[where] = what
            self._tell(what)

    def _mended(self, where: str) -> None:
        if self._said.pop(where, None) is not None:
            self._tell(f"{where}: works again")

    def _sleep(self) -> None:
        until = time.monotonic() + self._settings.interval
        while not self._stopped and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, NAP))
