"""Record every answer of a fixed set of galleries and queries, and compare two versions of the code to the bit.

    python -m durability.answers record WORK OLD.json --tiles MVTEC_FOLDER --photographs FOLDER
    python -m durability.answers ask WORK NEW.json
    python -m durability.answers compare OLD.json NEW.json

`record` builds galleries in WORK and asks them; `ask` puts the same questions to galleries that an earlier version left
there. Only the command line and HTTP are used, so that any version can be recorded: set PYTHONPATH to its checkout and
to this `tests` folder. The bits depend on the processor: record both versions on one machine, in the same WORK.
"""

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from difflib import unified_diff
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

BACKBONE = ["--backbone", "efficientnet-lite0"]
COMMANDS = [
    "build",
    "add",
    "remove",
    "restore",
    "list",
    "info",
    "index",
    "verify",
    "compact",
    "query",
    "calibrate",
    "evaluate",
    "serve",
]
QUERIES: dict[str, list[str]] = {
    "default": [],
    "concat-bilinear": ["--mode", "concat-bilinear"],
    "per-level": ["--mode", "per-level"],
    "fast": ["--pixel-precision", "fast"],
    "three pixels": ["--pixel-neighbours", "3"],
    "few neighbours": ["--score-neighbours", "1", "--gallery-neighbours", "5"],
    "equal weights": ["--level-weights", "equal", "--smoothing", "2"],
    "auto": ["--maps", "auto"],
    "never": ["--maps", "never"],
    "pooled": ["--image-score", "pooled"],
}
PATIENCE = 60  # seconds until the service must answer
VOLATILE = ("result", "created", "seconds", "started", "uptime_seconds", "expires")
Answers = dict[str, Any]


def run(*arguments: object) -> str:
    """Standard output of a command of `spade-index`, without times of day."""
    command = [sys.executable, "-m", "spade_index", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}: {done.stderr}")
    return re.sub(r'"\d{4}-\d\d-\d\dT[^"]*"', '"TIME"', done.stdout)


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of the files below a folder."""
    files = sorted(file for pattern in patterns for file in folder.rglob(pattern))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def some(folder: Path, count: int) -> list[Path]:
    """About `count` images of a folder, spread over it."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".png", ".bmp"))
    return files[:: max(1, len(files) // count)][:count]


def copied(files: list[Path], folder: Path, name: str = "{file.name}") -> None:
    """Copy files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder / name.format(file=file))


def prepare(data: Path, tiles: Path, photographs: Path) -> None:
    """Choose the images: galleries, queries and a data set in MVTec layout."""
    normal = some(tiles / "train" / "good", 66)
    copied(normal[:60], data / "train")
    copied(normal[60:], data / "more")
    copied(some(photographs, 320), data / "photographs", "{file.parent.name}-{file.name}")
    copied(normal[:60], data / "set" / "train" / "good")
    for kind in sorted(folder.name for folder in (tiles / "test").iterdir()):
        chosen = some(tiles / "test" / kind, 3)
        copied(chosen, data / "queries", kind + "-{file.name}")
        copied(chosen, data / "set" / "test" / kind)
        if kind != "good":
            masks = [next((tiles / "ground_truth" / kind).glob(f"{file.stem}_mask.*")) for file in chosen]
            copied(masks, data / "set" / "ground_truth" / kind)


def build(data: Path, galleries: Path) -> Answers:
    """Build galleries, and change one in every way."""
    galleries.mkdir()
    answers: Answers = {"build": run("build", data / "train", galleries / "tiles", *BACKBONE)}
    answers["calibrate"] = run("calibrate", galleries / "tiles")
    run("build", data / "train", galleries / "paper", *BACKBONE, "--preset", "paper")
    run("build", data / "photographs", galleries / "photographs", *BACKBONE, "--input-size", "64")
    run("build", data / "train", galleries / "changed", *BACKBONE)
    run("add", galleries / "changed", data / "more")
    ids = [line.split("\t")[0].strip() for line in run("list", galleries / "changed").splitlines()]
    run("remove", galleries / "changed", ids[3], ids[5], ids[8])
    run("restore", galleries / "changed", ids[5])
    answers["removed"] = run("list", galleries / "changed", "--removed")
    run("compact", galleries / "changed")
    return answers | {"files": digests(galleries, "*.h5", "*.faiss")}


def ask(work: Path) -> Answers:
    """Ask the galleries by the command line."""
    data, galleries, found = work / "data", work / "galleries", work / "found"
    shutil.rmtree(found, ignore_errors=True)
    answers: Answers = {}
    for gallery in sorted(galleries.iterdir()):
        answers[f"info {gallery.name}"] = json.loads(run("info", gallery, "--json"))
        answers[f"verify {gallery.name}"] = run("verify", gallery)
        answers[f"list {gallery.name}"] = run("list", gallery)
        options = ["--preset", "paper"] if gallery.name == "paper" else []
        answers[f"query {gallery.name}"] = run("query", gallery, data / "queries", "--json", *options)
    for name, options in QUERIES.items():
        out = found / name
        command = ["query", galleries / "tiles", data / "queries", "--json", "--out", out, *options]
        answers[f"query tiles, {name}"] = run(*command)
        answers[f"files of query tiles, {name}"] = digests(out, "*.npy", "*.png", "*.html")
    run("evaluate", data / "set", "--json", work / "figures.json", *BACKBONE)
    figures = stable(json.loads((work / "figures.json").read_text()))
    helps = [run(command, "--help") for command in COMMANDS]
    return answers | {"evaluate": figures, "options": sorted(set(re.findall(r"--[a-z][a-z-]*", " ".join(helps))))}


def ask_service(work: Path) -> Answers:
    """Ask the galleries over HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "spade_index", "serve", str(work / "galleries"), "--port", str(port)]
    with (work / "serve.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as service:
        try:
            return _service_answers(f"http://127.0.0.1:{port}", sorted((work / "data" / "queries").iterdir()))
        finally:
            service.terminate()


def _service_answers(base: str, queries: list[Path]) -> Answers:
    _wait_for(base + "/v2/health/ready")
    described = json.loads(fetched(base + "/openapi.json"))
    answers: Answers = {"paths": {path: sorted(methods) for path, methods in described["paths"].items()}}
    for path in ("/v1/galleries", "/v1/galleries/tiles", "/v1/galleries/tiles/images", "/v2/models/tiles"):
        answers[f"GET {path}"] = stable(json.loads(fetched(base + path)))
    for file in queries:
        head = f'--XX\r\nContent-Disposition: form-data; name="images"; filename="{file.name}"\r\n\r\n'.encode()
        body, kind = head + file.read_bytes() + b"\r\n--XX--\r\n", "multipart/form-data; boundary=XX"
        answer = json.loads(fetched(base + "/v1/galleries/tiles/query?maps=always", body, kind))
        answers[f"POST query {file.name}"] = stable(answer)
    pixels = np.asarray(Image.open(queries[0]).convert("RGB").resize((224, 224)))
    name = next(taken["name"] for taken in answers["GET /v2/models/tiles"]["inputs"] if taken["datatype"] == "UINT8")
    tensor = {"name": name, "datatype": "UINT8", "shape": [1, *pixels.shape], "data": pixels.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    answers["POST infer"] = stable(json.loads(fetched(base + "/v2/models/tiles/infer", body, "application/json")))
    return answers


def _wait_for(url: str) -> None:
    for _ in range(PATIENCE):
        try:
            fetched(url)
        except OSError:
            time.sleep(1)
        else:
            return
    sys.exit(f"{url} does not answer")


def fetched(url: str, body: bytes | None = None, kind: str = "") -> bytes:
    """The body of an answer."""
    headers = {"Content-Type": kind} if body else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        content: bytes = answer.read()
    return content


def stable(value: Any) -> Any:
    """An answer without what differs from run to run."""
    if isinstance(value, dict):
        return {key: "*" if key in VOLATILE else stable(of) for key, of in value.items()}
    if isinstance(value, list):
        return [stable(of) for of in value]
    return re.sub(r"^[\w-]{16}$|(?<=/results/)[\w-]+", "*", value) if isinstance(value, str) else value


@click.group()
def main() -> None:
    """Record answers, and compare those of two versions."""


@main.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--tiles", type=click.Path(path_type=Path, exists=True), required=True, help="Data set in MVTec layout.")
@click.option("--photographs", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of images.")
def record(work: Path, out: Path, tiles: Path, photographs: Path) -> None:
    """Build the galleries in WORK and write all answers to OUT."""
    shutil.rmtree(work, ignore_errors=True)
    prepare(work / "data", tiles, photographs)
    answers = build(work / "data", work / "galleries")
    out.write_text(json.dumps(answers | ask(work) | ask_service(work), indent=1, sort_keys=True))


@main.command("ask")
@click.argument("work", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
def ask_again(work: Path, out: Path) -> None:
    """Ask the galleries in WORK as they are, and write the answers to OUT."""
    out.write_text(json.dumps(ask(work) | ask_service(work), indent=1, sort_keys=True))


@main.command()
@click.argument("old", type=click.Path(path_type=Path, exists=True))
@click.argument("new", type=click.Path(path_type=Path, exists=True))
def compare(old: Path, new: Path) -> None:
    """Name the answers that differ; exit 1 if there are any. Answers that only OLD has are not compared."""
    before, after = json.loads(old.read_text()), json.loads(new.read_text())
    different = [key for key in after if before.get(key) != after[key]]
    for key in different:
        was, now = (json.dumps(answers.get(key), indent=1, sort_keys=True).splitlines() for answers in (before, after))
        click.echo("\n".join([f"{key}:", *(line[:200] for line in list(unified_diff(was, now, n=0))[2:12])]))
    click.echo(f"{len(after)} answers compared, {len(different)} differ")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
