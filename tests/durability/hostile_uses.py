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
from spade_index.images import DecodedImage
from spade_index.method import calibration
from spade_index.method.audit import audit
from spade_index.method.tuned import tuned_search
from spade_index.server.galleries import Galleries
from spade_index.server.jobs import Jobs
from spade_index.server.recent import Recent
from spade_index.server.settings import ServeSettings
from spade_index.settings import IndexSettings

from durability import hostile_edges
from durability.hostile_changes import SECRET
from durability.hostile_galleries import Kind, answers
from helpers.decoding_here import HERE
from helpers.waiting import eventually

SECONDS = 60  # of all uses of a gallery; undisturbed they take one or two
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


def write(path: Path, kind: Kind, name: str) -> None:
    """Change a gallery."""
    with GalleryWriter(path) as writer:
        if name == "add":
            files = [kind.file(500 + number, f"new-{number}.png") for number in range(3)]
            writer.add(files, kind.backbone, keep_removed=True, workers=1, decoders=HERE)
        elif name in ("remove", "restore"):
            rows = list(writer.gallery.images() if name == "remove" else writer.gallery.removed_images())
            (writer.remove if name == "remove" else writer.restore)([row.id for row in rows[:2]])
        elif name == "compact":
            writer.compact()
        elif name == "index":
            writer.build_index(IndexSettings())
        elif name == "calibrate":
            search = tuned_search(writer.gallery)
            calibration.store(writer, search, calibration.calibrate(writer.gallery, search, device="cpu"))
        elif name == "repair":
            writer.repair()


def jobs(root: Path, kind: Kind) -> None:
    """Start the jobs of a service, and wait until none runs."""
    told: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: told.append(handler.format(record))  # type: ignore[method-assign]
    logging.getLogger("spade_index").addHandler(handler)
    settings = ServeSettings(root=root, job_seconds=1)
    running = Jobs(Galleries(settings, lambda gallery, device: kind.backbone), settings, HERE, Recent(0, 0))
    running.start()
    eventually(lambda: not any(job.state in ("queued", "running") for job in running.all()), SECONDS)
    [job.info() for job in running.all()]
    running.stop()
    assert not told, "\n".join(told)
    assert not running.worker.failures


def use(path: Path, kind: Kind, expected: list[Any], parts: list[DecodedImage], rng: random.Random) -> Uses:
    """Use a gallery in every way, change it in one, and use it from the edges."""
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

    answered = tried("query", lambda: answers(path, kind, parts))
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
    first = rng.random() < 0.5  # before the change, which may mend the gallery
    if first:
        from_the_edges(path, kind, rng, tried)
    (name,) = rng.choices(list(WRITES), list(WRITES.values()))
    tried(name, lambda: write(path, kind, name))
    if not first:
        from_the_edges(path, kind, rng, tried)
    if rng.random() < 0.2:
        tried("jobs", lambda: jobs(path.parent, kind))
    return found


def from_the_edges(path: Path, kind: Kind, rng: random.Random, tried: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Use a gallery by a command, and sometimes by one in a process of its own, and by the service."""
    name = rng.choice(hostile_edges.COMMANDS)
    tried(f"command {name}", lambda: hostile_edges.command(path, kind, name))
    if rng.random() < 0.01:
        apart = rng.choice(hostile_edges.PROCESSES)
        tried(f"process {apart}", lambda: hostile_edges.process(path, apart))
    if rng.random() < 0.2:
        tried("serve", lambda: hostile_edges.serve(path, kind, rng))


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
