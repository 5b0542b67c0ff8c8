"""A decoding process, as its parent sees it."""

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import spawn

from spade_index.errors import ImageError
from spade_index.settings import DecodeLimits

from .calls import UNREAD, Answer, Call, pack, pack_read, read_answer, wants_memory
from .messages import Part, receive, send

START_SECONDS = 60.0  # in which a process starts, on a machine that is busy
ENDING_SECONDS = 1.0  # from the end of its socket to that of the process
MOST_ANSWER = 1 << 30  # bytes
# A new interpreter with the same path: not a fork, since torch has threads, and not `multiprocessing`, which would run
# the calling program's main module again.
START = "import sys; sys.path[:] = sys.argv[4:]; from spade_index.images.workers.child import main; "
START += "main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))"
ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # there are several such processes


class DecoderLost(Exception):
    """A decoding process has died, was ended because it took too long, or has no memory left for the next image."""

    def __init__(self, reason: str, *, late: bool = False, started: bool = True, spent: bool = False) -> None:
        super().__init__(reason)
        self.late = late
        self.started = started
        self.spent = spent  # of its memory: an image took all of it, and not all comes back


class Decoder:
    """A decoding process. Not for use by several threads at a time."""

    def __init__(self, limits: DecodeLimits) -> None:
        """Start a process, and do not wait for it. Raises OSError if there cannot be one."""
        self._limits = limits
        self._started = False
        self._channel, theirs = socket.socketpair()
        try:
            passed = fcntl.fcntl(
                theirs, fcntl.F_DUPFD_CLOEXEC, 3
            )  # not a standard stream's number, should one be closed
        finally:
            theirs.close()
        try:
            number = str(passed)
            arguments = [number, str(limits.memory), repr(limits.seconds), *map(str, sys.path)]
            self._process = subprocess.Popen(
                [spawn.get_executable(), "-c", START, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # of what libraries print
                pass_fds=(passed,),
                env={**os.environ, **ALONE},
            )
        except BaseException:
            self._channel.close()
            raise
        finally:
            os.close(passed)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the process lives."""
        return self._process.poll() is None

    def ask(self, calls: Sequence[Call], answers: list[Answer | ImageError]) -> None:
        """Append the answers of calls, in order, as they come.

        Raises DecoderLost if there will be no more of them, and what reading a file here raises. Then, the process must
        be closed.
        """
        self._wait_for_start()
        if not self._asked(pack(calls), calls, answers) and not self._asked(pack_read(calls), calls, answers):
            raise DecoderLost("the decoding process cannot import what it is to call")

    def _asked(self, message: Sequence[Part], calls: Sequence[Call], answers: list[Answer | ImageError]) -> bool:
        """Append the answers of calls; return False, and none of them, if the process cannot unpack the message."""
        try:
            send(self._channel, message, time.monotonic() + self._limits.seconds)
            for call in calls:
                parts = receive(self._channel, MOST_ANSWER, time.monotonic() + self._limits.seconds)
                if call is calls[0] and list(parts) == [UNREAD]:
                    return False
                answers.append(read_answer(parts, call.name, self._limits.memory))
                if wants_memory(parts):
                    raise DecoderLost("the image before it took all memory", spent=True)
        except TimeoutError as error:
            raise DecoderLost(f"decoding it takes more than {self._limits.seconds:g} seconds", late=True) from error
        except (EOFError, OSError, ValueError) as error:
            raise DecoderLost(f"the process that decoded it died ({self._ending()})") from error
        return True

    def _wait_for_start(self) -> None:
        if self._started:
            return
        try:
            receive(self._channel, 0, time.monotonic() + START_SECONDS)
        except TimeoutError as error:
            raise DecoderLost(f"not within {START_SECONDS:g} seconds", started=False) from error
        except (EOFError, OSError, ValueError) as error:
            raise DecoderLost(self._ending(), started=False) from error
        self._started = True

    def close(self) -> None:
        """End the process. Only for the thread that asks it, or where none does."""
        self.stop()
        self._process.wait()
        self._channel.close()

    def stop(self) -> None:
        """Let the process end; the thread that asks it gets DecoderLost, and must close it."""
        self._process.kill()
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def _ending(self) -> str:
        try:
            code = self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"status {code}"
