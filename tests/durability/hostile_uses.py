"""Use a gallery whose files are suspects, in a child process of limited memory and time.

Every use ends with an answer that is right, or with one line.
"""

import faulthandler
import json
import logging
import os
import random
import resource
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spade_index.errors import SpadeIndexError
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage, load
from spade_index.method import calibration
from spade_index.method.audit import audit
from spade_index.method.detector import Detector
from spade_index.method.tuned import tuned_search
from spade_index.server.galleries import Galleries
from spade_index.server.jobs import Jobs
from spade_index.server.settings import ServeSettings
from spade_index.settings import IndexSettings

from durability.hostile_changes import SECRET
from helpers.decoding_here import HERE
from helpers.model import BACKBONE
from helpers.tiny import image_file, png
from helpers.waiting import eventually

SECONDS = 30  # of all uses of a gallery; undisturbed they take less than one
MEMORY = 1 << 30  # bytes, beyond what the process has
FILE_BYTES = 64 << 20  # of a file that is written
WRITES = {"open": 8, "add": 8, "remove": 8, "restore": 6, "compact": 6, "index": 8, "calibrate": 2, "repair": 8}


@dataclass
class Uses:
    """What became of the uses of one gallery."""

    right: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # answers that differ
    refused: dict[str, str] = field(default_factory=dict)  # with one line
    faults: dict[str, str] = field(default_factory=dict)  # other exceptions, lines that are several, secrets told
    problems: int = 0  # that `verify` found


def query_image() -> DecodedImage:
    """Return an image to query."""
    return load(image_file("query.png", png(77)), BACKBONE.settings.preprocessing)


def answers(path: Path, image: DecodedImage) -> list[Any]:
    """Return what a gallery answers to a query, as it was tuned and calibrated."""
    with Gallery(path) as gallery:
        search = tuned_search(gallery)
        detector = Detector(gallery, BACKBONE, search, device="cpu")
        (found,) = detector.detect([image])
        pixels = found.pixels.score_map.tobytes().hex() if found.pixels else None
        near = [(n.id, n.distance) for n in found.neighbours]
        return [found.scores, detector.thresholds, near, pixels, found.p_value]


def read_all(path: Path) -> None:
    """Read all that can be read of a gallery's images."""
    with Gallery(path) as gallery:
        told = [json.dumps(gallery.info(), default=str)]
        rows = [*gallery.images(), *gallery.removed_images()][:50]
        told += [str(row) for row in rows]
        seen: list[bytes] = [text.encode("utf-8", "replace") for text in told]
        for row in rows:
            with suppress(SpadeIndexError):
                seen.append(gallery.thumbnail(row))
            with suppress(SpadeIndexError):
                stored = gallery.stored(row)
                seen += [stored.thumbnail, stored.pooled.tobytes(), *(level.tobytes() for level in stored.maps)]
        seen += [gallery.pooled(rows).tobytes(), *(np.ascontiguousarray(x).tobytes() for _, x in gallery.blocks())]
        assert not any(SECRET[:24] in data for data in seen), "a secret was told"
        audit(gallery)


def write(path: Path, kind: str) -> None:
    """Change a gallery."""
    with GalleryWriter(path) as writer:
        if kind == "add":
            files = [image_file(f"new-{number}.png", png(500 + number)) for number in range(3)]
            writer.add(files, BACKBONE, keep_removed=True, workers=1, decoders=HERE)
        elif kind in ("remove", "restore"):
            rows = list(writer.gallery.images() if kind == "remove" else writer.gallery.removed_images())
            (writer.remove if kind == "remove" else writer.restore)([row.id for row in rows[:2]])
        elif kind == "compact":
            writer.compact()
        elif kind == "index":
            writer.build_index(IndexSettings())
        elif kind == "calibrate":
            search = tuned_search(writer.gallery)
            calibration.store(writer, search, calibration.calibrate(writer.gallery, search, device="cpu"))
        elif kind == "repair":
            writer.repair()


def jobs(root: Path) -> None:
    """Start the jobs of a service, and wait until none runs."""
    told: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: told.append(handler.format(record))  # type: ignore[method-assign]
    logging.getLogger("spade_index").addHandler(handler)
    settings = ServeSettings(root=root, job_seconds=1)
    running = Jobs(Galleries(settings, lambda gallery, device: BACKBONE), settings, HERE)
    running.start()
    eventually(lambda: not any(job.state in ("queued", "running") for job in running.all()), SECONDS)
    [job.info() for job in running.all()]
    running.stop()
    assert not told, "\n".join(told)
    assert not running.worker.failures


def use(path: Path, expected: list[Any], image: DecodedImage, rng: random.Random) -> Uses:
    """Use a gallery in every way, and change it in one."""
    found = Uses()

    def tried(name: str, action: Callable[[], Any]) -> Any:
        try:
            result = action()
        except SpadeIndexError as error:
            line = str(error)
            found.refused[name] = line
            if "\n" in line or len(line) > 2000 or SECRET[:24].decode() in line:
                found.faults[name] = f"not one line: {line[:3000]}"
        except BaseException:
            found.faults[name] = traceback.format_exc()[-3000:]
        else:
            found.right.append(name)
            return result
        return None

    answered = tried("query", lambda: answers(path, image))
    if answered is not None and json.dumps(answered) != json.dumps(expected):
        found.right.remove("query")
        found.wrong.append("query")
    tried("read", lambda: read_all(path))

    def verify() -> list[str]:
        with Gallery(path) as gallery:
            return list(gallery.verify())

    lines = tried("verify", verify)
    found.problems = len(lines or []) + ("verify" in found.refused)
    if any("\n" in line for line in lines or []):
        found.faults["verify"] = f"not one line: {lines}"
    (kind,) = rng.choices(list(WRITES), list(WRITES.values()))
    tried(kind, lambda: write(path, kind))
    if rng.random() < 0.3:
        tried("jobs", lambda: jobs(path.parent))
    return found


def child(action: Callable[[], Uses], log: Path) -> Uses | str:
    """Run uses in a forked process; return what became of them, or how the process died."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 2)
                faulthandler.enable()
                faulthandler.dump_traceback_later(SECONDS)
                signal.alarm(SECONDS + 1)
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                limit = pages * resource.getpagesize() + MEMORY
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
                with os.fdopen(writing, "w") as pipe:
                    json.dump(vars(action()), pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) or not text:
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        how = "it took too long" if signalled == signal.SIGALRM else f"it died ({signalled})"
        return f"{how}\n{log.read_text()[-3000:]}"
    return Uses(**json.loads(text))
