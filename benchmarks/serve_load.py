"""What the HTTP service costs: requests per second and latency against the same work done in a plain loop.

    python benchmarks/serve_load.py GALLERY IMAGES --json serve_load.json

The plain loop decodes an image, computes its features, searches the gallery, and makes the JSON, one image after the
other in one process. The service does the same for 1, 8 and 64 clients that each wait for their answer. Rounds of all
of these alternate, so that a machine that others slow down slows them all; ratios are medians over rounds. Answers are
compared with the plain loop's before anything is timed.

Then images arrive at four times the rate that the service can bear. Each must have an answer, the queue must stay
within its limit, and the service's memory where it was. Loopback only; requests are bounded in number and time.
"""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from spade_index.benchmarks.environment import environment
from spade_index.benchmarks.process_tree import resident
from spade_index.benchmarks.serve_clients import Connection, Reply, closed_loop, open_loop
from spade_index.gallery import Gallery
from spade_index.images import decode, find_images, preprocess
from spade_index.method.detection import Question
from spade_index.method.detector import Detector
from spade_index.server.galleries import backbone_of

CLIENTS = (1, 8, 64)
QUEUE = 128  # images
OVERLOAD = 4
TOLERANCE = 1e-4  # relative, of scores: images that share a batch differ by the backbone's rounding
START_SECONDS = 60.0


class PlainLoop:
    """The same work without a service."""

    def __init__(self, path: Path) -> None:
        gallery = Gallery(path)
        self._backbone = backbone_of(gallery, "auto")
        self._detector = Detector(gallery, self._backbone)
        self._how = gallery.settings.preprocessing

    def run(self, bodies: Sequence[bytes], maps: Any) -> list[float]:
        """Scores of images, one after the other."""
        scores = []
        for body in bodies:
            pixels, _ = preprocess(decode(body, "image"), self._how)
            features = self._backbone(pixels[None])
            nearest = self._detector.nearest_images(features.pooled.cpu().numpy())
            ((_, detection),) = self._detector.judge(nearest, features.pyramid, [Question(maps)])
            json.dumps({"score": detection.score, "neighbours": [vars(n) for n in detection.neighbours]})
            scores.append(detection.score)
        return scores


@contextmanager
def service(root: Path) -> Iterator[tuple[int, int]]:
    """`spade-index serve` as a process of its own: its port and its id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "spade_index", "serve", str(root), "--port", str(port), "--queue", str(QUEUE)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _await_ready(process, port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)


def measure(gallery: Path, bodies: Sequence[bytes], maps: str, rounds: int, requests: int) -> dict[str, Any]:
    """Rounds of the plain loop and of each number of clients, then the overload."""
    path = f"/v1/galleries/{gallery.name}/query?maps={maps}"
    plain = PlainLoop(gallery)
    some = list(islice(cycle(bodies), requests))
    with service(gallery.parent) as (port, pid):
        verify(port, path, bodies[:16], plain.run(bodies[:16], maps))
        asyncio.run(closed_loop(port, path, some, max(CLIENTS)))  # warm
        contenders: dict[str, list[dict[str, Any]]] = {"plain": [], **{str(clients): [] for clients in CLIENTS}}
        for number in range(rounds):
            begun = time.perf_counter()
            plain.run(some, maps)
            contenders["plain"].append({"rate": requests / (time.perf_counter() - begun)})
            for clients in CLIENTS:
                seconds, replies = asyncio.run(closed_loop(port, path, some, clients))
                contenders[str(clients)].append(_round(seconds, replies))
            click.echo(f"maps={maps}: round {number + 1} of {rounds}", err=True)
        rate = statistics.median(found["rate"] for found in contenders["8"])
        overloaded = asyncio.run(overload(port, pid, path, bodies, OVERLOAD * rate, requests * OVERLOAD))
    return {"maps": maps, "requests": requests, "contenders": _summaries(contenders), "overload": overloaded}


def verify(port: int, path: str, bodies: Sequence[bytes], expected: Sequence[float]) -> None:
    """Exit unless the service finds what the plain loop does: alone the same bits, together within rounding."""
    for clients in (1, 8):
        _, replies = asyncio.run(closed_loop(port, path, bodies, clients))
        if bad := [reply.status for reply in replies if reply.status != 200]:
            raise SystemExit(f"the service answered {bad[0]}")
        scores = np.array([reply.json()["results"][0]["score"] for reply in replies])
        off = float(np.max(np.abs(scores / np.array(expected) - 1)))
        if off > (0 if clients == 1 else TOLERANCE):
            raise SystemExit(f"with {clients} clients, scores are off by {off:.1e}: nothing was timed")


async def overload(
    port: int, pid: int, path: str, bodies: Sequence[bytes], rate: float, requests: int
) -> dict[str, Any]:
    """Images that arrive too fast; what became of each, and what the service held meanwhile."""
    queue: list[float] = []
    memory = [resident([pid])]
    done = asyncio.Event()

    async def watch() -> None:
        connection = Connection(port)
        while not done.is_set():
            text = (await connection.get("/metrics")).body.decode()
            queue.extend(float(line.split()[1]) for line in text.splitlines() if "_queue_images " in line[:30])
            memory.append(resident([pid]))
            await asyncio.sleep(0.25)

    watching = asyncio.create_task(watch())
    begun = time.perf_counter()
    replies = await open_loop(port, path, list(islice(cycle(bodies), requests)), rate)
    seconds = time.perf_counter() - begun
    done.set()
    await watching
    answered = [reply for reply in replies if reply.status == 200]
    refused = [reply for reply in replies if reply.status == 503]
    return {
        "rate": rate,
        "requests": requests,
        "answered": len(answered),
        "refused": len(refused),
        "refused_without_retry_after": sum(not reply.retry_after for reply in refused),
        "lost": requests - len(answered) - len(refused),
        "answered_per_second": len(answered) / seconds,
        "seconds": _latency(answered),
        "queue_limit": QUEUE,
        "queue_most": max(queue),
        "memory_before_mb": memory[0],
        "memory_most_mb": max(memory),
    }


def table(result: dict[str, Any]) -> str:
    """A result for people."""
    lines = []
    for found in result["runs"]:
        lines.append(f"maps={found['maps']}: {found['requests']} requests a round")
        lines.append(f"{'':12} {'images/s':>9} {'ratio':>6}   (min  max)   {'p50 ms':>8} {'p99 ms':>8}")
        for name, row in found["contenders"].items():
            label = "plain loop" if name == "plain" else f"{name} client{'s' * (name != '1')}"
            latency = f"{row['p50'] * 1e3:8.0f} {row['p99'] * 1e3:8.0f}" if "p50" in row else ""
            lines.append(
                f"{label:12} {row['rate']:9.1f} {row['ratio']:6.2f} {row['ratio_min']:6.2f} {row['ratio_max']:5.2f}"
                f"   {latency}"
            )
        over = found["overload"]
        lines.append(
            f"overload: {over['requests']} images at {over['rate']:.0f}/s: {over['answered']} answered, "
            f"{over['refused']} refused, {over['lost']} lost; at most {over['queue_most']:.0f} in a queue of "
            f"{over['queue_limit']}; memory {over['memory_before_mb']:.0f} MB before, at most "
            f"{over['memory_most_mb']:.0f} MB"
        )
    return "\n".join(lines)


def _await_ready(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if asyncio.run(Connection(port).get("/v2/health/ready")).status == 200:
            return
        time.sleep(0.2)
    raise SystemExit("the service did not start")


def _round(seconds: float, replies: Sequence[Reply]) -> dict[str, Any]:
    if any(reply.status != 200 for reply in replies):
        raise SystemExit(f"the service answered {sorted({reply.status for reply in replies})}")
    return {"rate": len(replies) / seconds, **_latency(replies)}


def _latency(replies: Sequence[Reply]) -> dict[str, float]:
    seconds = [reply.seconds for reply in replies]
    return {"p50": float(np.quantile(seconds, 0.5)), "p99": float(np.quantile(seconds, 0.99))} if seconds else {}


def _summaries(contenders: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    summaries = {}
    for name, found in contenders.items():
        ratios = [this["rate"] / plain["rate"] for this, plain in zip(found, contenders["plain"], strict=True)]
        medians = {key: statistics.median(this[key] for this in found) for key in found[0]}
        spread = {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
        summaries[name] = medians | spread | {"rounds": found}
    return summaries


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
        about = {"images": len(opened), "backbone": opened.settings.backbone, "input": opened.settings.preprocessing}
        about |= {"input": list(opened.settings.preprocessing.input_size), "queries": len(bodies)}
    runs = [measure(gallery, bodies, which, rounds, requests) for which in maps]
    result = {**environment(), "gallery": about, "runs": runs}
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(table(result))


if __name__ == "__main__":
    main()
