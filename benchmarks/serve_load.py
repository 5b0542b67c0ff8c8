"""What does the HTTP service cost? Requests per second and latency against the same work done in a plain loop.

    python benchmarks/serve_load.py GALLERY IMAGES --json serve_load.json

The plain loop decodes an image, computes its features, searches the gallery and makes the JSON, one image after the
other in one process. The service does the same for 1, 8 and 64 clients that each wait for their answer. The service's
answers are compared with the plain loop's before anything is timed. Then images arrive at four times the rate that the
service can handle: each must be answered, the queue must stay within its limit, and memory must not grow.

With `--before CHECKOUT`, the service of an earlier checkout takes turns with it, on a copy of the same gallery, and
every figure is given as a share of that one's in the same round. The gallery must be one that both can read.
"""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import psutil

from spade_index.benchmarks.harness import (
    Figures,
    WrongResult,
    environment,
    take_turns,
    timed,
    write_json,
)
from spade_index.benchmarks.processes import Failed, resident_mb
from spade_index.benchmarks.serve_report import BEFORE, PLAIN, report, summaries
from spade_index.client import Client
from spade_index.gallery import Gallery
from spade_index.images import decode, find_images, preprocess
from spade_index.method.detection import Question
from spade_index.method.detector import Detector
from spade_index.server.galleries import backbone_of

CLIENTS = (1, 8, 64)
QUEUE = 128  # images
OVERLOAD = 4  # times the service's rate
TOLERANCE = 1e-4  # relative, of scores: the backbone rounds differently in a batch
START_S = 60.0
IDLE_S = 2.0  # that an unused connection is kept: fewer than the service keeps it
TIMEOUT_S = 120.0  # after which a request counts as lost


@dataclass(frozen=True)
class Service:
    """A running `spade-index serve`, connections to it that stay open, and the query that it is asked."""

    http: httpx.Client
    process: psutil.Process
    query: str

    def send(self, images: Sequence[bytes], clients: int, rate: float = math.inf) -> list[httpx.Response | None]:
        """Send images from clients that each wait for their answer; return the answers, None where none came.

        `rate`: the images that are sent per second as long as a client is free.
        """

        def post(image: bytes) -> httpx.Response | None:
            with suppress(httpx.TransportError):
                return self.http.post(self.query, content=image, headers={"Content-Type": "application/octet-stream"})
            return None

        with ThreadPoolExecutor(clients) as pool:
            started = time.perf_counter()
            sent = []
            for place, image in enumerate(images):
                time.sleep(max(0, started + place / rate - time.perf_counter()))
                sent.append(pool.submit(post, image))
            return [future.result() for future in sent]

    def results(self, images: Sequence[bytes], clients: int) -> list[httpx.Response]:
        """Send images as `send` does. Raises Failed if one is not answered with a result."""
        answers = self.send(images, clients)
        good = _with_status(answers, 200)
        if len(good) < len(answers):
            raise Failed(f"the service answered {len(answers) - len(good)} of {len(answers)} images without a result")
        return good


def _with_status(answers: Sequence[httpx.Response | None], status: int) -> list[httpx.Response]:
    return [answer for answer in answers if answer is not None and answer.status_code == status]


@contextmanager
def service(gallery: Path, maps: str, checkout: Path | None = None) -> Iterator[Service]:
    """Run `spade-index serve` on the folder of a gallery in its own process; `checkout`: of whose code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "spade_index", "serve", str(gallery.parent)]
    address = f"http://127.0.0.1:{port}"
    command += ["--port", str(port), "--queue", str(QUEUE)]
    variables = os.environ if checkout is None else os.environ | {"PYTHONPATH": str(checkout)}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_S)
    with (
        Client(address) as client,
        httpx.Client(base_url=address, timeout=TIMEOUT_S, limits=limits, trust_env=False) as http,
        subprocess.Popen(command, stderr=subprocess.DEVNULL, env=variables, cwd=checkout) as process,
    ):
        try:
            until = time.monotonic() + START_S
            while not client.ready():
                if process.poll() is not None or time.monotonic() > until:
                    raise Failed("the service did not start")
                time.sleep(0.2)
            yield Service(http, psutil.Process(process.pid), f"/v1/galleries/{gallery.name}/query?maps={maps}")
        finally:
            process.terminate()


def plain_loop(gallery: Gallery, maps: Any) -> Callable[[Sequence[bytes]], list[float]]:
    """Return a function that does the same work without a service: it judges one image after the other."""
    backbone = backbone_of(gallery, "auto")
    detector = Detector(gallery, backbone)

    def score(body: bytes) -> float:
        pixels, _ = preprocess(decode(body, "image"), gallery.settings.preprocessing)
        features = backbone(pixels[None])
        nearest = detector.nearest_images(features.pooled.cpu().numpy())
        ((_, detection),) = detector.judge(nearest, features.pyramid, [Question(maps)])
        json.dumps({"score": detection.score, "neighbours": [vars(n) for n in detection.neighbours]})
        return detection.score

    return lambda bodies: [score(body) for body in bodies]


def measure(
    gallery: Gallery, bodies: Sequence[bytes], maps: str, rounds: int, requests: int, before: Path | None
) -> Figures:
    """Verify the service, time it, the plain loop and the service of `before` in turn, then overload the service."""
    plain = plain_loop(gallery, maps)
    sent = list(islice(cycle(bodies), requests))

    def loop() -> Figures:
        return {"rate": requests / timed(partial(plain, sent))[1]}

    def load(served: Service, clients: int) -> Figures:
        answers, seconds = timed(partial(served.results, sent, clients))
        return {"rate": requests / seconds, **_latency(answers)}

    with ExitStack() as stack:
        services = {"": stack.enter_context(service(gallery.folder, maps))}
        if before is not None:
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory()), "galleries", gallery.folder.name)
            shutil.copytree(gallery.folder, copy)
            services[BEFORE] = stack.enter_context(service(copy, maps, before))
        for served in services.values():
            verify(served, bodies[:16], plain(bodies[:16]))
            served.results(sent, max(CLIENTS))  # warm up
        runs = {PLAIN: loop} | {
            f"{clients}{of}": partial(load, served, clients) for clients in CLIENTS for of, served in services.items()
        }
        rows = take_turns(runs, rounds, lambda line: click.echo(f"maps={maps}: {line}", err=True))
        contenders = summaries(rows)
        overloaded = overload(services[""], OVERLOAD * sent, OVERLOAD * contenders["8"]["rate"])
    return {"maps": maps, "requests": requests, "contenders": contenders, "overload": overloaded}


def verify(served: Service, bodies: Sequence[bytes], expected: Sequence[float]) -> None:
    """Raise WrongResult unless scores are the plain loop's: to the bit for one client, within rounding for eight."""
    for clients, tolerance in ((1, 0.0), (8, TOLERANCE)):
        scores = [answer.json()["results"][0]["score"] for answer in served.results(bodies, clients)]
        off = float(np.max(np.abs(np.array(scores) / np.array(expected) - 1)))
        if off > tolerance:
            raise WrongResult(f"with {clients} clients, scores are off by {off:.1e}: nothing was timed")


def _latency(answers: Sequence[httpx.Response]) -> dict[str, float]:
    """Return the median and the 99th percentile in seconds."""
    seconds = [answer.elapsed.total_seconds() for answer in answers]
    return {"p50": float(np.quantile(seconds, 0.5)), "p99": float(np.quantile(seconds, 0.99))}


def overload(served: Service, bodies: Sequence[bytes], rate: float) -> Figures:
    """Send images at a rate that is too high; return the fate of each, and the largest queue and memory meanwhile."""
    queue, memory = [0.0], [resident_mb([served.process])]
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(served.send, bodies, len(bodies), rate)
        while not sending.done():
            time.sleep(0.25)
            lines = served.http.get("/metrics").text.splitlines()
            queue += [float(line.split()[1]) for line in lines if "_queue_images " in line[:30]]
            memory.append(resident_mb([served.process]))
    answers = sending.result()
    answered, refused = _with_status(answers, 200), _with_status(answers, 503)
    return {
        "rate": rate,
        "requests": len(bodies),
        "answered": len(answered),
        "refused": len(refused),
        "refused_without_retry_after": sum("Retry-After" not in answer.headers for answer in refused),
        "lost": len(bodies) - len(answered) - len(refused),
        "queue_limit": QUEUE,
        "queue_most": max(queue),
        "memory_before_mb": memory[0],
        "memory_most_mb": max(memory),
    }


@click.command(help=__doc__)
@click.argument("gallery", type=click.Path(exists=True, path_type=Path))
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--maps", multiple=True, default=("never", "always"), show_default=True)
@click.option("--rounds", type=click.IntRange(1, 20), default=5, show_default=True)
@click.option("--requests", type=click.IntRange(64, 2000), default=128, show_default=True, help="Of each round.")
@click.option(
    "--before",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="An earlier checkout, whose service is measured, too.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    gallery: Path,
    images: Path,
    maps: Sequence[str],
    rounds: int,
    requests: int,
    before: Path | None,
    json_file: Path | None,
) -> None:
    """Measure each kind of answer, print the tables and write JSON."""
    bodies = [file.read() for file in islice(find_images(images), 256)]
    with Gallery(gallery.resolve()) as opened:
        settings = opened.settings
        about = {"images": len(opened), "backbone": settings.backbone, "queries": len(bodies)}
        about |= {"input": list(settings.preprocessing.input_size)}
        runs = [measure(opened, bodies, kind, rounds, requests, before) for kind in maps]
    write_json(json_file, {**environment(), "gallery": about, "runs": runs})
    click.echo("\n".join(map(report, runs)))


if __name__ == "__main__":
    main()
