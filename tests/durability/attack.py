"""The campaign of hostile requests, against a service of two galleries and two keys, beside honest clients.

    python -m durability.attack --requests 10000 --json attack.json

Images, tensors, JSON, forms and heads are mutated; some are sent slowly, cut off, half open or not read. Counted are
crashes, answers that should not be, hangs (longer than the service's limits), honest requests that were not answered,
and the memory of the service and its processes before and after.
"""

import argparse
import json
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from spade_index.gallery import Gallery

from durability.attack_client import Limits, Outcome, send
from durability.attack_requests import KEYS, hostile
from helpers.cli_runs import BACKBONE, normal, run
from helpers.service_process import Process
from helpers.uploads import encoded

IMAGES = 8  # of a gallery
CLIENTS = 12  # hostile, at a time
HEAD, BODY, WAIT = 2.0, 2.0, 20.0  # seconds of the service's limits
OPTIONS = ["--limit", f"head_seconds={HEAD}", "--limit", f"body_seconds={BODY}", "--limit", "write_seconds=3"]
OPTIONS += ["--limit", f"results_bytes={4 << 20}", "--timeout", str(WAIT), "--max-body", "4", "--max-upload", "4"]
WARM = 300  # requests before the memory is measured first
HONEST_SECONDS = WAIT + 10  # in which an honest request is answered
REST = 8  # seconds after the last request


@dataclass
class Tally:
    """Counts of what happened."""

    requests: int = 0
    kinds: dict[str, int] = field(default_factory=dict)  # kind and manner
    statuses: dict[str, int] = field(default_factory=dict)
    crashes: int = 0
    hangs: int = 0
    faults: list[str] = field(default_factory=list)  # answers that should not be, with their numbers
    slowest_seconds: float = 0.0
    honest: int = 0  # answered well
    honest_retried: int = 0  # after 503
    honest_failed: list[str] = field(default_factory=list)
    honest_slowest_seconds: float = 0.0
    errors_logged: int = 0
    left: list[str] = field(default_factory=list)  # what should be gone after the last request
    memory_before: int = 0  # MiB
    memory_most: int = 0
    memory_after: int = 0
    memory_meanwhile: list[int] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether nothing went wrong."""
        bad = self.crashes or self.hangs or self.faults or self.honest_failed or self.errors_logged or self.left
        return not bad and self.memory_after <= 1.1 * self.memory_before


def build(root: Path) -> None:
    """Build two galleries of images whose names tell whose they are."""
    for start, name in enumerate(KEYS):
        images = root.with_name(f"images-{name}")
        images.mkdir()
        for number in range(IMAGES):
            normal(100 * start + number).save(images / f"secret-{name}-{number}.png")
        run("build", images, root / name, *BACKBONE, "--no-tune")


class Honest:
    """Clients that ask beside the hostile ones, and expect their first answer each time."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._tally = tally
        self._url = f"http://127.0.0.1:{port}"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(name,)) for name in KEYS]
        self._lock = threading.Lock()

    def __enter__(self) -> "Honest":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, gallery: str) -> None:
        data, first = encoded(normal(7)), None
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                result = self._answer(gallery, data)
            except Exception as error:
                with self._lock:
                    self._tally.honest_failed.append(f"{gallery}: {error!r}"[:300])
                continue
            seconds = time.monotonic() - begun
            first = first or result["scores"]
            with self._lock:
                self._tally.honest += 1
                self._tally.honest_slowest_seconds = max(self._tally.honest_slowest_seconds, round(seconds, 2))
                if gallery == "tiles" and not _close(result["scores"], first):  # `bolts` gets more images
                    self._tally.honest_failed.append(f"{gallery}: other scores, {result['scores']}")
            self._stop.wait(0.2)

    def _answer(self, gallery: str, data: bytes) -> dict[str, Any]:
        until = time.monotonic() + HONEST_SECONDS
        while True:
            with httpx.Client(base_url=self._url, timeout=HONEST_SECONDS, verify=False) as http:
                answer = http.post(
                    f"/v1/galleries/{gallery}/query",
                    content=data,
                    params={"maps": "always"},
                    headers={"Authorization": f"Bearer {KEYS[gallery]}", "Content-Type": "image/png"},
                )
            if answer.status_code != 503 or time.monotonic() > until:
                break
            with self._lock:
                self._tally.honest_retried += 1
            time.sleep(int(answer.headers["retry-after"]))
        assert answer.status_code == 200, answer.text[:200]
        return dict(answer.json()["results"][0])


def _close(scores: dict[str, float], others: dict[str, float]) -> bool:
    return all(abs(scores[kind] - others[kind]) <= 1e-4 * abs(others[kind]) for kind in others)


class Campaign:
    """Attacks a service, and tallies what happens."""

    def __init__(self, seed: int, root: Path, process: Process) -> None:
        self.seed, self.root, self.process = seed, root, process
        self.tally = Tally()
        secrets = {name: f"secret-{name}".encode() for name in KEYS}
        self.limits = Limits(HEAD, BODY, WAIT, secrets, str(root).encode())
        self._kinds: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, requests: int, only: int | None = None, warm: int = WARM) -> Tally:
        """Send requests of all kinds, `warm` of them before memory is measured; return the tally."""
        numbers = range(requests) if only is None else range(only, only + 1)
        with Honest(self.process.port, self.tally), ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self.attack, range(-warm, 0)))
            self.use_all()
            self.tally.memory_before = self.tally.memory_most = self.memory()
            self._kinds.clear(), self._statuses.clear()
            list(pool.map(self.attack, numbers))
        self.tally.requests = len(numbers)
        self.tally.kinds = dict(sorted(self._kinds.items()))
        self.tally.statuses = dict(sorted(self._statuses.items()))
        time.sleep(REST)
        self.look_after()
        return self.tally

    def attack(self, number: int) -> None:
        """Send one request."""
        if self.process.process.poll() is not None:
            return
        made = hostile(self.seed, number)
        try:
            outcome = send(made, self.process.port, random.Random(number), self.limits)
        except OSError as error:
            outcome = Outcome(None, 0.0, fault=f"cannot connect: {error}")
        with self._lock:
            self._kinds[f"{made.kind}, {made.manner}"] += 1
            self._statuses[str(outcome.status or "closed")] += 1
            self.tally.hangs += outcome.hung
            self.tally.slowest_seconds = max(self.tally.slowest_seconds, round(outcome.seconds, 2))
            if outcome.hung or outcome.fault:
                self.tally.faults.append(f"{number} ({made.kind}, {made.manner}): {outcome.fault or 'hung'}")
        if number % 100 == 0:
            memory = self.memory()
            self.tally.memory_most = max(self.tally.memory_most, memory)
            if number % 1000 == 0:
                self.tally.memory_meanwhile.append(memory)

    def use_all(self) -> None:
        """Let every process of the service start, also those that decode for jobs and for pictures."""
        headers, http = {"X-Api-Key": KEYS["bolts"]}, self.process.http
        path, data = "/v1/galleries/bolts", encoded(normal(300))
        http.post(f"{path}/score-map", content=data, headers=headers).raise_for_status()
        job = http.post(f"{path}/images", files={"images": ("first.png", data)}, headers=headers).json()["id"]
        self.process.finished(job, headers=headers)
        time.sleep(1)

    def memory(self) -> int:
        """Return the resident memory of the service and its processes, in MiB."""
        of = psutil.Process(self.process.process.pid)
        total = 0
        for process in [of, *of.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total >> 20

    def look_after(self) -> None:
        """Look at what is left: the process, its queue, connections and files, and the galleries."""
        tally, process = self.tally, self.process
        if process.process.poll() is not None:
            tally.crashes += 1
            return
        headers = {"X-Api-Key": KEYS["tiles"]}
        for _ in range(600):  # the last may still be at work
            jobs = process.http.get("/v1/jobs", headers={"X-Api-Key": KEYS["bolts"]}).json()["jobs"]
            left = [job["id"] for job in jobs if job["state"] in ("receiving", "queued", "running")]
            lines = process.http.get("/metrics", headers=headers).text
            kept = [name for name in ("queue_images", "unsent_bytes") if f"spade_index_{name} 0.0" not in lines]
            if not left and not kept:
                break
            time.sleep(0.1)
        tally.left += [*kept, *(f"job {id}" for id in left)]
        tally.memory_after = self.memory()
        if process.http.get("/v2/health/ready").status_code != 200:
            tally.left.append("not ready")
        tally.left += [str(path) for path in (self.root / ".spade-index").glob("jobs/*/images/*")]
        lines_of_log = process.log_text().splitlines()
        records = [json.loads(line) for line in lines_of_log if line.startswith("{")]
        tally.errors_logged = sum(record["level"] in ("error", "critical") for record in records)
        tally.left += [f"not JSON in the log: {line[:200]}" for line in lines_of_log if not line.startswith("{")]
        for name in KEYS:
            with Gallery(self.root / name) as gallery:
                tally.left += [f"{name}: {fault}" for fault in gallery.verify()]


def serve_and_attack(folder: Path, requests: int, seed: int = 0, only: int | None = None, warm: int = WARM) -> Tally:
    """Build galleries, serve and attack them, with `warm` requests first; return the tally."""
    root, keys = folder / "root", folder / "keys"
    root.mkdir()
    build(root)
    keys.write_text(f"{KEYS['tiles']} tiles read\n{KEYS['bolts']} bolts write\n")
    keys.chmod(0o600)
    with Process(root, "--api-keys", str(keys), *OPTIONS) as process:
        return Campaign(seed, root, process).run(requests, only, warm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="only this request, to repeat what it did")
    parser.add_argument("--json", type=Path, help="where to write the tally")
    options = parser.parse_args()
    begun = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="attack-"))
    tally = serve_and_attack(folder, options.requests, options.seed, options.only)
    result = {"seed": options.seed, **asdict(tally), "seconds": round(time.perf_counter() - begun)}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if tally.well:
        shutil.rmtree(folder)
    else:
        print(f"the galleries and the log are kept in {folder}")
    raise SystemExit(not tally.well)


if __name__ == "__main__":
    main()
