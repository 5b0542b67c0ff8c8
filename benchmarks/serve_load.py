"""What does the HTTP service cost? Requests per second and latency against the same work done in a plain loop.

    python benchmarks/serve_load.py GALLERY IMAGES --json serve_load.json

The plain loop decodes an image, computes its features, searches the gallery and makes the JSON, one image after the
other in one process. The service does the same for 1, 8 and 64 clients that each wait for their answer. The service's
answers are compared with the plain loop's before anything is timed. Then images arrive at four times the rate that the
service can handle: each must be answered, the queue must stay within its limit, and memory must not grow.
"""

import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from spade_index.benchmarks.harness import (
    Figures,
    WrongResult,
    environment,
    medians,
    ratios,
    table,
    take_turns,
    timed,
    write_json,
)
from spade_index.benchmarks.processes import Failed, resident_mb
from spade_index.gallery import Gallery
from spade_index.images import decode, find_images, preprocess
from spade_index.method.detection import Question
from spade_index.method.detector import Detector
from spade_index.server.galleries import backbone_of

CLIENTS = (1, 8, 64)
PLAIN = "plain"
QUEUE = 128  # images
OVERLOAD = 4  # times the service's rate
TOLERANCE = 1e-4  # relative, of scores: the backbone rounds differently in a batch
START_S = 60.0
TIMEOUT_S = 120.0  # after which a request counts as lost


@dataclass(frozen=True)
class Reply:
    """The answer to a request; status 0: none came."""

    status: int
    seconds: float
    retry_after: bool = False
    body: bytes = b""


def request(connection: HTTPConnection, path: str, image: bytes | None = None) -> Reply:
    """Post an image, or get a resource, on a connection that stays open."""
    started = time.perf_counter()
    try:
        headers = {} if image is None else {"Content-Type": "application/octet-stream"}
        connection.request("GET" if image is None else "POST", path, image, headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException):
        connection.close()
        return Reply(0, time.perf_counter() - started)
    return Reply(answer.status, time.perf_counter() - started, "Retry-After" in answer.headers, body)


def connect(port: int) -> closing[HTTPConnection]:
    """Return a connection for a `with` block; it opens at the first request."""
    return closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S))


@dataclass(frozen=True)
class Service:
    """A running `spade-index serve`, and the query that it is asked."""

    port: int
    process: psutil.Process
    path: str

    def send(self, images: Sequence[bytes], clients: int, rate: float = math.inf) -> tuple[list[Reply], float]:
        """Send images from a number of clients; return the replies in order, and the seconds until the last.

        Each client has its own connection and waits for its answer. `rate`: the images that are sent per second as
        long as a client is free.
        """
        thread, connections = threading.local(), ExitStack()

        def open_connection() -> None:
            thread.connection = connections.enter_context(connect(self.port))

        def post(image: bytes) -> Reply:
            return request(thread.connection, self.path, image)

        with connections, ThreadPoolExecutor(clients, initializer=open_connection) as pool:
            started = time.perf_counter()
            sent = []
            for place, image in enumerate(images):
                time.sleep(max(0, started + place / rate - time.perf_counter()))
                sent.append(pool.submit(post, image))
            return [future.result() for future in sent], time.perf_counter() - started

    def answers(self, images: Sequence[bytes], clients: int) -> tuple[list[Reply], float]:
        """Send images as `send` does. Raises Failed if one is not answered with a result."""
        replies, seconds = self.send(images, clients)
        if refused := {reply.status for reply in replies} - {200}:
            raise Failed(f"the service answered {sorted(refused)}")
        return replies, seconds

    def queue(self) -> float:
        """Return the number of images in the queue."""
        with connect(self.port) as connection:
            lines = request(connection, "/metrics").body.decode().splitlines()
        return next((float(line.split()[1]) for line in lines if "_queue_images " in line[:30]), 0.0)


@contextmanager
def service(gallery: Path, maps: str) -> Iterator[Service]:
    """Run `spade-index serve` on the folder of a gallery in its own process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "spade_index", "serve", str(gallery.parent)]
    with subprocess.Popen([*command, "--port", str(port), "--queue", str(QUEUE)], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(process, port)
            yield Service(port, psutil.Process(process.pid), f"/v1/galleries/{gallery.name}/query?maps={maps}")
        finally:
            process.terminate()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + START_S
    with connect(port) as connection:
        while time.monotonic() < until and process.poll() is None:
            if request(connection, "/v2/health/ready").status == 200:
                return
            time.sleep(0.2)
    raise Failed("the service did not start")


class PlainLoop:
    """The same work without a service."""

    def __init__(self, gallery: Gallery, maps: Any) -> None:
        self._backbone = backbone_of(gallery, "auto")
        self._detector = Detector(gallery, self._backbone)
        self._preprocessing = gallery.settings.preprocessing
        self._question = Question(maps)

    def run(self, bodies: Sequence[bytes]) -> list[float]:
        """Return the scores of images, judged one after the other."""
        scores = []
        for body in bodies:
            pixels, _ = preprocess(decode(body, "image"), self._preprocessing)
            features = self._backbone(pixels[None])
            nearest = self._detector.nearest_images(features.pooled.cpu().numpy())
            ((_, detection),) = self._detector.judge(nearest, features.pyramid, [self._question])
            json.dumps({"score": detection.score, "neighbours": [vars(n) for n in detection.neighbours]})
            scores.append(detection.score)
        return scores


def measure(gallery: Gallery, bodies: Sequence[bytes], maps: str, rounds: int, requests: int) -> Figures:
    """Verify the service, time it and the plain loop in turn, then overload the service."""
    plain = PlainLoop(gallery, maps)
    sent = list(islice(cycle(bodies), requests))

    def loop() -> Figures:
        return {"rate": requests / timed(partial(plain.run, sent))[1]}

    def load(clients: int) -> Figures:
        replies, seconds = served.answers(sent, clients)
        return {"rate": requests / seconds, **_latency(replies)}

    with service(gallery.path, maps) as served:
        verify(served, bodies[:16], plain.run(bodies[:16]))
        served.answers(sent, max(CLIENTS))  # warm up
        runs = {PLAIN: loop} | {str(clients): partial(load, clients) for clients in CLIENTS}
        rows = take_turns(runs, rounds, lambda line: click.echo(f"maps={maps}: {line}", err=True))
        contenders = summaries(rows)
        overloaded = overload(
            served, list(islice(cycle(sent), OVERLOAD * requests)), OVERLOAD * contenders["8"]["rate"]
        )
    return {"maps": maps, "requests": requests, "contenders": contenders, "overload": overloaded}


def verify(served: Service, bodies: Sequence[bytes], expected: Sequence[float]) -> None:
    """Raise WrongResult unless scores are the plain loop's: to the bit for one client, within rounding for eight."""
    for clients, tolerance in ((1, 0.0), (8, TOLERANCE)):
        scores = [json.loads(reply.body)["results"][0]["score"] for reply in served.answers(bodies, clients)[0]]
        off = float(np.max(np.abs(np.array(scores) / np.array(expected) - 1)))
        if off > tolerance:
            raise WrongResult(f"with {clients} clients, scores are off by {off:.1e}: nothing was timed")


def _latency(replies: Sequence[Reply]) -> dict[str, float]:
    """Return the median and the 99th percentile in seconds."""
    seconds = [reply.seconds for reply in replies]
    return {"p50": float(np.quantile(seconds, 0.5)), "p99": float(np.quantile(seconds, 0.99))} if seconds else {}


def summaries(rounds: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Return the medians of each contender, its rates as ratios to the plain loop's, and all its rounds."""
    rates = {name: [found["rate"] for found in of] for name, of in rounds.items()}
    return {name: {**medians(of), **ratios(rates[name], rates[PLAIN]), "rounds": of} for name, of in rounds.items()}


def overload(served: Service, bodies: Sequence[bytes], rate: float) -> Figures:
    """Send images at a rate that is too high; return the fate of each, and the largest queue and memory meanwhile."""
    queue, memory = [0.0], [resident_mb([served.process])]
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(served.send, bodies, len(bodies), rate)
        while not sending.done():
            time.sleep(0.25)
            queue.append(served.queue())
            memory.append(resident_mb([served.process]))
    replies, seconds = sending.result()
    answered = [reply for reply in replies if reply.status == 200]
    refused = [reply for reply in replies if reply.status == 503]
    return {
        "rate": rate,
        "requests": len(bodies),
        "answered": len(answered),
        "refused": len(refused),
        "refused_without_retry_after": sum(not reply.retry_after for reply in refused),
        "lost": len(bodies) - len(answered) - len(refused),
        "answered_per_second": len(answered) / seconds,
        "seconds": _latency(answered),
        "queue_limit": QUEUE,
        "queue_most": max(queue),
        "memory_before_mb": memory[0],
        "memory_most_mb": max(memory),
    }


def report(run: Figures) -> str:
    """Return the measurements of one kind of answer as a table."""
    rows = [["", "images/s", "ratio", "min", "max", "p50 ms", "p99 ms"]]
    for name, row in run["contenders"].items():
        label = "plain loop" if name == PLAIN else f"{name} client{'s' * (name != '1')}"
        shares = [f"{row[key]:.2f}" for key in ("ratio", "ratio_min", "ratio_max")]
        latency = [f"{1e3 * row[key]:.0f}" if key in row else "" for key in ("p50", "p99")]
        rows.append([label, f"{row['rate']:.1f}", *shares, *latency])
    return "\n".join(
        [
            f"maps={run['maps']}: {run['requests']} requests a round",
            *table(rows),
            "overload: {requests} images at {rate:.0f}/s: {answered} answered, {refused} refused, {lost} lost; at most "
            "{queue_most:.0f} in a queue of {queue_limit}; memory {memory_before_mb:.0f} MB before, at most "
            "{memory_most_mb:.0f} MB".format(**run["overload"]),
        ]
    )


@click.command(help=__doc__)
@click.argument("gallery", type=click.Path(exists=True, path_type=Path))
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--maps", multiple=True, default=("never", "always"), show_default=True)
@click.option("--rounds", type=click.IntRange(1, 20), default=5, show_default=True)
@click.option("--requests", type=click.IntRange(64, 2000), default=128, show_default=True, help="Of each round.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(gallery: Path, images: Path, maps: Sequence[str], rounds: int, requests: int, json_file: Path | None) -> None:
    """Measure each kind of answer, print the tables and write JSON."""
    bodies = [file.read() for file in islice(find_images(images), 256)]
    with Gallery(gallery.resolve()) as opened:
        settings = opened.settings
        about = {"images": len(opened), "backbone": settings.backbone, "queries": len(bodies)}
        about |= {"input": list(settings.preprocessing.input_size)}
        runs = [measure(opened, bodies, kind, rounds, requests) for kind in maps]
    write_json(json_file, {**environment(), "gallery": about, "runs": runs})
    click.echo("\n".join(map(report, runs)))


if __name__ == "__main__":
    main()
