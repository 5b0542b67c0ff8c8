"""What does the HTTP service cost? Requests per second and latency against the same work done in a plain loop.

    python benchmarks/serve_load.py GALLERY IMAGES --json serve_load.json

The plain loop decodes an image, computes its features, searches the gallery and makes the JSON, one image after the
other in one process. The service does the same for 1, 8 and 64 clients that each wait for their answer. All of these
take turns; ratios are medians over rounds. The service's answers are compared with the plain loop's before anything is
timed.

Then images arrive at four times the rate that the service can handle. Each must be answered, the queue must stay within
its limit, and the service's memory must not grow. Loopback only; requests are bounded in number and time.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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
from spade_index.benchmarks.serve_clients import Connection, Reply, closed_loop, open_loop
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


class PlainLoop:
    """The same work without a service."""

    def __init__(self, path: Path) -> None:
        gallery = Gallery(path)
        self._backbone = backbone_of(gallery, "auto")
        self._detector = Detector(gallery, self._backbone)
        self._preprocessing = gallery.settings.preprocessing

    def run(self, bodies: Sequence[bytes], maps: Any) -> list[float]:
        """Return the scores of images, judged one after the other."""
        scores = []
        for body in bodies:
            pixels, _ = preprocess(decode(body, "image"), self._preprocessing)
            features = self._backbone(pixels[None])
            nearest = self._detector.nearest_images(features.pooled.cpu().numpy())
            ((_, detection),) = self._detector.judge(nearest, features.pyramid, [Question(maps)])
            json.dumps({"score": detection.score, "neighbours": [vars(n) for n in detection.neighbours]})
            scores.append(detection.score)
        return scores


@contextmanager
def service(root: Path) -> Iterator[tuple[int, int]]:
    """Run `spade-index serve` in its own process; yield its port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "spade_index", "serve", str(root), "--port", str(port), "--queue", str(QUEUE)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        if asyncio.run(Connection(port).get("/v2/health/ready")).status == 200:
            return
        time.sleep(0.2)
    raise Failed("the service did not start")


def measure(gallery: Path, bodies: Sequence[bytes], maps: str, rounds: int, requests: int) -> Figures:
    """Verify the service, time it and the plain loop in turn, then overload the service."""
    path = f"/v1/galleries/{gallery.name}/query?maps={maps}"
    plain = PlainLoop(gallery)
    sent = list(islice(cycle(bodies), requests))

    def loop() -> Figures:
        return {"rate": requests / timed(partial(plain.run, sent, maps))[1]}

    with service(gallery.parent) as (port, process):
        verify(port, path, bodies[:16], plain.run(bodies[:16], maps))
        asyncio.run(closed_loop(port, path, sent, max(CLIENTS)))  # warm up
        runs = {PLAIN: loop} | {str(clients): partial(clients_round, port, path, sent, clients) for clients in CLIENTS}
        contenders = summaries(take_turns(runs, rounds, lambda line: click.echo(f"maps={maps}: {line}", err=True)))
        rate = OVERLOAD * contenders["8"]["rate"]
        overloaded = asyncio.run(overload(port, process, path, list(islice(cycle(sent), OVERLOAD * requests)), rate))
    return {"maps": maps, "requests": requests, "contenders": contenders, "overload": overloaded}


def verify(port: int, path: str, bodies: Sequence[bytes], expected: Sequence[float]) -> None:
    """Raise WrongResult unless scores are the plain loop's: to the bit for one client, within rounding for eight."""
    for clients in (1, 8):
        scores = [reply.json()["results"][0]["score"] for reply in _answers(port, path, bodies, clients)[1]]
        off = float(np.max(np.abs(np.array(scores) / np.array(expected) - 1)))
        if off > (0 if clients == 1 else TOLERANCE):
            raise WrongResult(f"with {clients} clients, scores are off by {off:.1e}: nothing was timed")


def clients_round(port: int, path: str, bodies: Sequence[bytes], clients: int) -> Figures:
    """Return the rate and the latency of one round with a number of clients."""
    seconds, replies = _answers(port, path, bodies, clients)
    return {"rate": len(replies) / seconds, **_latency(replies)}


def _answers(port: int, path: str, bodies: Sequence[bytes], clients: int) -> tuple[float, list[Reply]]:
    seconds, replies = asyncio.run(closed_loop(port, path, bodies, clients))
    if refused := {reply.status for reply in replies if reply.status != 200}:
        raise Failed(f"the service answered {sorted(refused)}")
    return seconds, replies


def _latency(replies: Sequence[Reply]) -> dict[str, float]:
    """Return the median and the 99th percentile in seconds."""
    seconds = [reply.seconds for reply in replies]
    return {"p50": float(np.quantile(seconds, 0.5)), "p99": float(np.quantile(seconds, 0.99))} if seconds else {}


def summaries(rounds: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Return the medians of each contender, its rates as ratios to the plain loop's, and all its rounds."""
    rates = {name: [found["rate"] for found in of] for name, of in rounds.items()}
    return {name: {**medians(of), **ratios(rates[name], rates[PLAIN]), "rounds": of} for name, of in rounds.items()}


async def overload(port: int, process: int, path: str, bodies: Sequence[bytes], rate: float) -> Figures:
    """Send images at a rate that is too high; return the fate of each, and the largest queue and memory meanwhile."""
    queue: list[float] = []
    served = psutil.Process(process)
    memory = [resident_mb([served])]

    async def watch() -> None:
        connection = Connection(port)
        while True:
            text = (await connection.get("/metrics")).body.decode()
            queue.extend(float(line.split()[1]) for line in text.splitlines() if "_queue_images " in line[:30])
            memory.append(resident_mb([served]))
            await asyncio.sleep(0.25)

    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    replies = await open_loop(port, path, bodies, rate)
    seconds = time.perf_counter() - started
    watching.cancel()
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
        latency = [f"{1e3 * row[key]:.0f}" if key in row else "" for key in ("p50", "p99")]
        shares = [f"{row[key]:.2f}" for key in ("ratio", "ratio_min", "ratio_max")]
        rows.append([label, f"{row['rate']:.1f}", *shares, *latency])
    over = run["overload"]
    return "\n".join(
        [
            f"maps={run['maps']}: {run['requests']} requests a round",
            *table(rows),
            f"overload: {over['requests']} images at {over['rate']:.0f}/s: {over['answered']} answered, "
            f"{over['refused']} refused, {over['lost']} lost; at most {over['queue_most']:.0f} in a queue of "
            f"{over['queue_limit']}; memory {over['memory_before_mb']:.0f} MB before, at most "
            f"{over['memory_most_mb']:.0f} MB",
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
    """See the module."""
    gallery = gallery.resolve()
    bodies = [file.read() for file in islice(find_images(images), 256)]
    with Gallery(gallery) as opened:
        settings = opened.settings
        about = {"images": len(opened), "backbone": settings.backbone, "queries": len(bodies)}
        about |= {"input": list(settings.preprocessing.input_size)}
    runs = [measure(gallery, bodies, kind, rounds, requests) for kind in maps]
    write_json(json_file, {**environment(), "gallery": about, "runs": runs})
    click.echo("\n".join(map(report, runs)))


if __name__ == "__main__":
    main()
