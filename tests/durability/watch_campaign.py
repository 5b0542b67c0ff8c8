"""The campaign of `spade-index watch`: it is killed while images arrive, and the receivers come and go.

    python -m durability.watch_campaign --images 10000 --kills 100 --json benchmarks/results/watch.json

Images are renamed into a folder, in order. Processes of `spade-index watch` follow each other, each killed at a random
moment; the last one is left to finish. The receiver of a webhook is absent now and then, and a broker of MQTT, which
keeps its messages, is restarted, also under the last process. In the end each image must have its verdict in the lines,
at the receiver and at a subscriber of the broker, under one id. The memory of the last process is measured.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from durability import program
from helpers.broker import Broker, Subscriber, free_port
from helpers.cli_runs import BACKBONE, normal, run, write_normal
from helpers.receiver import receiver
from helpers.waiting import eventually

PROGRAM = "from spade_index.cli import main; main()"
QUICK = ["--interval", "0.1", "--settle", "0.1", "--workers", "1", "--device", "cpu", "--threshold", "1"]
LONGEST = 20.0  # seconds that a process computes at most before its kill, of which its start takes some
AWAY = 2.0  # seconds that the receiver is away, or there, at most
LAST = 0.3  # share of the images that the last process, which is not killed, finds
WARM = 0.2  # share of the last process's verdicts before its memory is measured first


@dataclass
class WatchTally:
    """What happened."""

    images: int
    kills: int = 0
    absences: int = 0
    restarts: int = 0  # of the broker
    lost_lines: int = 0
    lost_posts: int = 0
    lost_messages: int = 0
    repeated_lines: int = 0
    repeated_posts: int = 0
    repeated_messages: int = 0
    images_with_two_ids: int = 0
    refused: int = 0  # verdicts that the receiver refused for good
    out_of_order: int = 0  # first deliveries at the receivers that came before an earlier image's
    first_mib: float = 0  # resident memory of the last process when it was warm, and at its end
    last_mib: float = 0
    seconds: float = 0

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost or got a second id."""
        return not (self.lost_lines or self.lost_posts or self.lost_messages or self.images_with_two_ids)


class Receiving:
    """A receiver that comes and goes at one port, in a thread."""

    def __init__(self, seed: int) -> None:
        self._posts: list[tuple[str, dict[str, str], bytes]] = []  # also those that were answered 503, or not at all
        self.absences = 0
        self.stays = threading.Event()
        self.port = free_port()
        self._random = random.Random(seed)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._done = threading.Event()
        self._thread.start()

    @property
    def got(self) -> list[dict[str, Any]]:
        """The verdicts that came."""
        return [json.loads(body) for _, _, body in self._posts]

    def _run(self) -> None:
        while not self._done.is_set():
            with receiver(503, port=self.port) as server:
                server.got = self._posts
                self._done.wait(self._random.uniform(0, AWAY))
                while self.stays.is_set() and not self._done.is_set():
                    self._done.wait(0.1)
            if not self.stays.is_set():
                self.absences += 1
                self._done.wait(self._random.uniform(0, AWAY))

    def close(self) -> None:
        """End."""
        self._done.set()
        self._thread.join()


class Restarting:
    """A broker that is restarted now and then, in a thread, and whose subscriber has a session that it keeps."""

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir()
        kept = ("persistence true", f"persistence_location {folder}/", "user root", "max_queued_messages 0")
        self.broker = Broker(folder, *kept)
        self.broker.start()
        self.subscriber = Subscriber(self.broker.port)
        self.restarts = 0
        self._random = random.Random(seed)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(self._random.uniform(0, 4 * AWAY)):
            self.broker.stop()
            self._done.wait(self._random.uniform(0, AWAY))
            self.broker.start()
            self.restarts += 1

    def close(self, images: int) -> None:
        """End, once the subscriber has the verdicts of all images, or gets none any more."""
        self._done.set()
        self._thread.join()
        with suppress(AssertionError):  # what is lost is counted
            eventually(lambda: len({verdict["image"] for verdict in self.subscriber.got}) == images)
        with self.subscriber:
            pass
        self.broker.stop()


def campaign(folder: Path, images: int, kills: int, seed: int) -> WatchTally:
    """Run the campaign in an empty folder."""
    begun = time.monotonic()
    moments, tally = random.Random(seed), WatchTally(images)
    write_normal(folder / "normal", 8)
    run("build", folder / "normal", folder / "gallery", *BACKBONE, "--no-tune")
    (folder / "line").mkdir()
    receiving, restarting = Receiving(seed), Restarting(folder / "broker", seed)
    kept = images - int(LAST * images)
    arrival = (folder / "line", range(kept), kills * LONGEST / 2)
    arriving = threading.Thread(target=_arrive, args=arrival, daemon=True)
    arriving.start()
    mqtt = restarting.broker.url()
    url = f"http://127.0.0.1:{receiving.port}/"
    options = ["--jsonl", folder / "lines.jsonl", "--webhook", url, "--mqtt", mqtt, "--state", folder / "state", *QUICK]
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "watch",
        str(folder / "line"),
        str(folder / "gallery"),
        *map(str, options),
    ]
    for _ in range(kills):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            _compute(process, moments.uniform(0, LONGEST))
            process.kill()
            tally.kills += 1
    arriving.join()
    receiving.stays.set()
    _arrive(folder / "line", range(kept, images), 0)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        _measure(process, folder / "lines.jsonl", images, tally)
    receiving.close()
    restarting.close(images)
    tally.absences, tally.restarts = receiving.absences, restarting.restarts
    count(tally, folder / "lines.jsonl", receiving.got, restarting.subscriber.got)
    tally.refused = len((folder / "state" / "refused.jsonl").read_text().splitlines())
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally


def _compute(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait until a process has computed for a time, or waited for long: on a busy machine, it lives longer."""
    known, until = psutil.Process(process.pid), time.monotonic() + 2 * LONGEST
    while time.monotonic() < until and sum(known.cpu_times()[:2]) < seconds:
        time.sleep(0.02)


def _arrive(line: Path, images: range, seconds: float) -> None:
    """Rename images into a folder, evenly over a time."""
    normal(1).save(line / ".image.png")
    for number in images:
        part = line / f".{number:06d}.png"
        shutil.copy(line / ".image.png", part)
        part.rename(line / f"{number:06d}.png")
        time.sleep(seconds / len(images))


def _measure(process: "subprocess.Popen[bytes]", lines: Path, images: int, tally: WatchTally) -> None:
    """Wait until nothing more is delivered, measure the memory meanwhile, and end the process."""
    begin = _judged(lines)
    while _judged(lines) < images or _waiting(lines.parent / "state"):
        time.sleep(0.5)
        if process.poll() is not None:
            raise RuntimeError("watch ended by itself")
        tally.last_mib = _resident(process.pid)
        if not tally.first_mib and _judged(lines) >= begin + WARM * (images - begin):
            tally.first_mib = tally.last_mib
    process.send_signal(signal.SIGTERM)
    if process.wait(60):
        raise RuntimeError("SIGTERM did not end watch well")


def _waiting(state: Path) -> int:
    """Return the number of verdicts that are not delivered everywhere."""
    with closing(sqlite3.connect(state / "watch.sqlite", timeout=30)) as db:
        return int(db.execute("SELECT count(*) FROM verdicts").fetchone()[0])


def _judged(lines: Path) -> int:
    return len({json.loads(line)["image"] for line in lines.read_text().splitlines()}) if lines.exists() else 0


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def count(tally: WatchTally, lines: Path, posts: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
    """Count what is lost, repeated, under two ids or out of order, in the file of lines and at the receivers."""
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    ids: dict[str, set[str]] = {}
    for verdict in (*written, *posts, *messages):
        ids.setdefault(verdict["image"], set()).add(verdict["id"])
    tally.images_with_two_ids = sum(len(of) > 1 for of in ids.values())
    for name, verdicts in (("lines", written), ("posts", posts), ("messages", messages)):
        counts = Counter(verdict["image"] for verdict in verdicts)
        setattr(tally, f"lost_{name}", tally.images - len(counts))
        setattr(tally, f"repeated_{name}", sum(counts.values()) - len(counts))
    for verdicts in (posts, messages):
        first = list(dict.fromkeys(verdict["image"] for verdict in verdicts))
        tally.out_of_order += sum(later < earlier for earlier, later in pairwise(first))


def main() -> None:
    """Run it."""
    parser = program.options(__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="images that arrive")
    parser.add_argument("--kills", type=int, default=100, help="processes that are killed")
    options = parser.parse_args()
    folder = program.prepared("watch")
    tally = campaign(folder, options.images, options.kills, options.seed)
    shutil.rmtree(folder)
    print("\n".join(f"{name.replace('_', ' '):<20}{value}" for name, value in asdict(tally).items()))
    if options.json:
        from spade_index.benchmarks.harness import environment

        result = {"seed": options.seed, **asdict(tally), "environment": environment()}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(not tally.is_sound)


if __name__ == "__main__":
    main()
