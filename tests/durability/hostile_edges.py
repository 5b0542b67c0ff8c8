"""Use a gallery whose files are suspects from the edges: the command line, and a service with an honest gallery."""

import logging
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np
from click.testing import CliRunner

from spade_index.cli import main
from spade_index.errors import InputError
from spade_index.features import backbone as backbone_module
from spade_index.images.workers import pool
from spade_index.server import decoding

from durability.hostile_changes import SECRET
from durability.hostile_galleries import HONEST, Kind
from helpers.decoding_here import HERE, DecodersHere
from helpers.serving import Server
from helpers.tiny import png, random_image

COMMANDS = ("verify", "query", "info", "list", "audit", "add", "compact", "index", "calibrate", "repair")
PROCESSES = ("verify", "info", "list", "compact")  # in a process of their own; they need no backbone
TOLD = SECRET[:24].decode()
UNFORESEEN = "its log tells why"  # of answers


def command(path: Path, kind: Kind, name: str) -> None:
    """Run a command in this process."""
    image = str(path.parents[1] / "outside" / "image.png")
    given = [str(path), image] if name in ("query", "add") else [str(path)]
    options = {"add": ["--workers", "1"], "query": ["--workers", "1", "--json"], "repair": ["--repair"]}.get(name, [])
    with (
        patch.object(backbone_module, "load_backbone", lambda *given, **options: kind.backbone),
        patch.object(pool, "_shared", [HERE]),
    ):
        ran = CliRunner().invoke(main, ["verify" if name == "repair" else name, *given, *options])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    require_told_well(ran.exit_code, ran.stdout, ran.stderr)


def process(path: Path, name: str) -> None:
    """Run a command in a process of its own."""
    ran = subprocess.run([sys.executable, "-m", "spade_index", name, str(path)], capture_output=True, check=False)
    require_told_well(ran.returncode, *(text.decode("utf-8", "replace") for text in (ran.stdout, ran.stderr)))


def require_told_well(status: int, stdout: str, stderr: str) -> None:
    """Require that a command ended well, or with one line, which is raised as InputError, and told no secret."""
    assert TOLD not in stdout + stderr, "a secret was told"
    assert "Traceback" not in stderr, stderr
    assert status in (0, 1), f"status {status}: {stderr}"
    said = [line for line in stderr.splitlines() if line.startswith("spade-index: ")]
    assert len(said) == status, f"status {status}: {stderr}"
    assert all(text.isprintable() or text == "\n" for text in stdout + stderr if text not in "\t\r\x1b"), "odd output"
    if said:
        raise InputError(said[0])


def serve(path: Path, kind: Kind, rng: random.Random) -> None:
    """Serve the galleries, ask for much of the hostile one, and the honest one for the right answer each time."""
    log: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: log.append(handler.format(record))  # type: ignore[method-assign]
    logging.getLogger("spade_index").addHandler(handler)
    with patch.object(decoding, "DecoderPool", DecodersHere):
        server = Server(path.parent, load=_loading(kind), job_seconds=1, decoders=1)
    try:
        first = honest(server.http)
        for ask in rng.sample(REQUESTS, 5):
            answer = ask(server.http, "gallery")
            text = answer.content.decode("latin-1")
            assert TOLD not in text, "a secret was told"
            assert str(path.parents[2]) not in text, f"a folder was told: {text[:300]}"
            assert UNFORESEEN not in text, "\n".join([text[:300], *log])
            assert honest(server.http) == first, "an honest answer has changed"
    finally:
        server.stop()


def honest(http: httpx.Client) -> float:
    """Return the score of an image in the honest gallery."""
    answer = infer(http, "honest")
    assert answer.status_code == 200, f"an honest request failed: {answer.text[:500]}"
    (score,) = (tensor["data"][0] for tensor in answer.json()["outputs"] if tensor["name"] == "score")
    return float(score)


def infer(http: httpx.Client, gallery: str) -> httpx.Response:
    """Ask for the score of some pixels, which need no decoding."""
    pixels = np.asarray(random_image(5))[None]
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    return http.post(f"/v2/models/{gallery}/infer", json={"inputs": [tensor], "outputs": [{"name": "score"}]})


def _loading(kind: Kind) -> Callable[..., Any]:
    return lambda gallery, device: (kind if gallery.path.name == "gallery" else HONEST).backbone


def _get(at: str) -> Callable[[httpx.Client, str], httpx.Response]:
    return lambda http, gallery: http.get(at.format(gallery))


def _post(at: str, body: Any) -> Callable[[httpx.Client, str], httpx.Response]:
    if isinstance(body, bytes):
        return lambda http, gallery: http.post(at.format(gallery), content=body)
    return lambda http, gallery: http.post(at.format(gallery), json=body)


REQUESTS: list[Callable[[httpx.Client, str], httpx.Response]] = [
    infer,
    _get("/v1/galleries"),
    _get("/v1/galleries/{}"),
    _get("/v1/galleries/{}/images"),
    _get("/v1/galleries/{}/thumbnail?id=004.png"),
    _get("/v1/galleries/{}/audit"),
    _get("/v2/models/{}"),
    _get("/v2/models/{}/config"),
    _get("/v2/models/{}/ready"),
    _get("/v2/models/{}/stats"),
    _get("/v1/jobs"),
    _post("/v1/galleries/{}/query?maps=always", png(5)),
    _post("/v1/galleries/{}/score-map", png(5)),
    _post("/v1/galleries/{}/remove", {"ids": ["005.png"]}),
    _post("/v1/galleries/{}/restore", {"ids": ["003.png"]}),
    _post("/v2/repository/index", {}),
]
