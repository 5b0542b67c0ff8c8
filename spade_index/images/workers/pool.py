"""Decoding processes: started when they are needed, kept, and replaced when they die."""

import atexit
import os
import threading
from collections.abc import Sequence
from contextlib import suppress

from spade_index.errors import ImageError, InputError
from spade_index.settings import DecodeLimits

from .calls import Answer, Call
from .process import Decoder, DecoderLost

TRIES = 2  # of an image whose process dies: another program may have killed it


class NoDecoder(InputError):
    """There is no process to decode with: it cannot be started."""


class DecodersEnded(NoDecoder):
    """The decoding processes were ended while an image was decoded, or before."""


class Asker:
    """Who asks a pool, and may leave while answers are under way."""

    def __init__(self) -> None:
        self.left = False


class DecoderPool:
    """Decoding processes: as many as there are threads that ask at a time."""

    def __init__(self, limits: DecodeLimits | None = None) -> None:
        """Without `limits`, use the defaults."""
        self.limits = limits or DecodeLimits()
        self.died = 0  # processes that died of themselves, or were killed
        self.late = 0  # that were ended because an image took too long
        self._lock = threading.Lock()
        self._idle: list[Decoder] = []
        self._busy: dict[Decoder, Asker] = {}
        self._ended = False

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that live."""
        with self._lock:
            return [decoder.pid for decoder in (*self._idle, *self._busy) if decoder.alive]

    def start(self, count: int) -> None:
        """Start or end processes until `count` live, where no more are at work. Raises OSError if it cannot."""
        with self._lock:
            dead = [decoder for decoder in self._idle if not decoder.alive]
            self._idle = [decoder for decoder in self._idle if decoder not in dead]
            self.died += len(dead)
            missing = count - len(self._idle) - len(self._busy)
            surplus = [self._idle.pop() for _ in range(min(-missing, len(self._idle)))]
        for decoder in dead + surplus:
            decoder.close()
        for _ in range(missing):
            self._give(Decoder(self.limits))

    def answers(self, calls: Sequence[Call], asker: Asker | None = None) -> list[Answer | ImageError]:
        """Return the answers of calls, in order: an ImageError for an image that cannot be decoded within the limits.

        Raises NoDecoder, and what reading a file raises where only this
        process can read it.
        """
        asker = asker or Asker()
        answers: list[Answer | ImageError] = []
        tries = 0
        while left := calls[len(answers) :]:
            done = len(answers)
            try:
                self._ask(left, answers, asker)
            except DecoderLost as error:
                if error.spent:
                    tries = 0
                    continue
                tries = 1 if len(answers) > done else tries + 1
                if tries == TRIES and not error.started:
                    raise NoDecoder(f"decoding processes do not start ({error})") from error
                if error.late or tries == TRIES:
                    answers.append(ImageError(f"{calls[len(answers)].name}: {error}"))
                    tries = 0
        return answers

    def answer(self, call: Call) -> Answer:
        """Return the answer of a call. Raises ImageError for an image that cannot be decoded, and as `answers`."""
        (answer,) = self.answers([call])
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def leave(self, asker: Asker) -> None:
        """End what is done for an asker, which gets DecodersEnded where it still waits."""
        asker.left = True
        with self._lock:
            for decoder, whose in self._busy.items():
                if whose is asker:
                    decoder.stop()

    def end(self) -> None:
        """End all processes; who waits for one gets DecodersEnded."""
        with self._lock:
            self._ended = True
            idle, self._idle = self._idle, []
            for decoder in self._busy:
                decoder.stop()
        for decoder in idle:
            decoder.close()

    def _ask(self, calls: Sequence[Call], answers: list[Answer | ImageError], asker: Asker) -> None:
        decoder = self._take(asker)
        whole = False
        try:
            decoder.ask(calls, answers)
            whole = True
        except DecoderLost as error:
            with self._lock:
                if self._ended or asker.left:
                    raise DecodersEnded("decoding was ended") from error
                self.late += error.late
                self.died += not (error.late or error.spent)
            raise
        finally:
            with self._lock:
                self._busy.pop(decoder)
            if whole:
                self._give(decoder)
            else:
                decoder.close()
                if not (self._ended or asker.left):
                    with suppress(OSError):  # the next that needs one tries again
                        self._give(Decoder(self.limits))

    def _take(self, asker: Asker) -> Decoder:
        while True:
            with self._lock:
                if self._ended or asker.left:
                    raise DecodersEnded("decoding was ended")
                decoder = self._idle.pop() if self._idle else None
                if decoder is not None and decoder.alive:
                    self._busy[decoder] = asker
                    return decoder
                self.died += decoder is not None
            if decoder is None:
                self._give(self._new())
            else:
                decoder.close()

    def _new(self) -> Decoder:
        try:
            return Decoder(self.limits)
        except OSError as error:
            reason = error.strerror or error
            raise NoDecoder(f"decoding processes cannot be started ({reason}): try fewer --workers") from error

    def _give(self, decoder: Decoder) -> None:
        with self._lock:
            if not self._ended:
                self._idle.append(decoder)
                return
        decoder.close()


_shared: list[DecoderPool] = []


def shared_pool() -> DecoderPool:
    """Return the pool of this program, for all that does not have one of its own."""
    if not _shared:
        _shared.append(DecoderPool())
    return _shared[0]


def answer_or_refuse(call: Call, decoders: DecoderPool | None = None) -> Answer:
    """Return the answer of a call about a mask. Raises InputError: it is part of a dataset, and not left out."""
    try:
        return (decoders or shared_pool()).answer(call)
    except ImageError as error:
        raise InputError(str(error)) from error


def limit_decoding(limits: DecodeLimits) -> None:
    """Set the limits of this program's pool."""
    if shared_pool().limits != limits:
        shared_pool().end()
        _shared[:] = [DecoderPool(limits)]


@atexit.register
def _end_shared() -> None:
    for pool in _shared:
        pool.end()


os.register_at_fork(after_in_child=_shared.clear)  # a copy of this process must not use its decoders
