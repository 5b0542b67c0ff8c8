"""Small files that take much memory or time to decode: one line each, and the service and others go on."""

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.cli_runs import BACKBONE, run, write_normal
from helpers.hostile_images import claiming, flat_png, many_frames, many_pages, png_with, slow_bmp
from helpers.http_answers import problem
from helpers.service_process import Process
from helpers.tiny import png, random_image
from helpers.uploads import encoded
from helpers.waiting import eventually

QUERY = "/v1/galleries/tiles/query"
MIB = 1 << 20
LIMITS = ("--limit", "decode_seconds=2", "--limit", f"decode_bytes={128 * MIB}", "--limit", "decoders=2")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("hostile")
    run("build", write_normal(folder / "images", 4), folder / "root" / "tiles", *BACKBONE, "--no-tune")
    with Process(folder / "root", *LIMITS) as process:
        assert process.http.post(QUERY, content=png(3)).status_code == 200
        yield process


def status_of(pid: int, name: str) -> int:
    """Return a size of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


REFUSED = {
    "a bomb": (lambda: flat_png(6500), "takes more than 128 MiB"),
    "minutes": (slow_bmp, "takes more than 2 seconds"),
    "a text that expands": (
        lambda: png_with((b"zTXt", b"a\0\0" + zlib.compress(bytes(64 * MIB)))),
        "cannot be decoded (Decompressed data too large",
    ),
    "JPEG 2000 that claims much": (lambda: claiming("JPEG2000"), "over the limit of 50,000,000 pixels"),
    "GIF that claims much": (lambda: claiming("GIF"), "over the limit of 50,000,000 pixels"),
    "BMP that claims much": (lambda: claiming("BMP"), "over the limit of 50,000,000 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_image_that_costs_too_much_is_one_line(service: Process, name: str) -> None:
    make, says = REFUSED[name]
    content = make()
    before = status_of(service.process.pid, "VmHWM")
    with ThreadPoolExecutor(4) as pool:
        asked = pool.submit(service.http.post, QUERY, content=content)
        for other in [pool.submit(service.http.post, QUERY, content=png(seed)) for seed in range(8)]:
            assert other.result().status_code == 200
        told = problem(asked.result(), 422, "images[0]")["detail"]
    assert told.startswith("images[0]: ")
    assert says in told
    assert "\n" not in told
    assert status_of(service.process.pid, "VmHWM") < before + 4 * len(content) + 48 * MIB
    eventually(lambda: service.http.get("/v2/health/ready").status_code == 200)


ACCEPTED = {
    "a profile that expands": lambda: png_with((b"iCCP", b"a\0\0" + zlib.compress(bytes(64 * MIB)))),
    "8 MiB of EXIF": lambda: png_with((b"eXIf", b"MM\0*\0\0\0\x08\x06\x66" + bytes(8 * MIB))),
    "100,000 pages": lambda: many_pages(100_000),
    "GIF of 1,000 frames": lambda: many_frames("GIF", 1000),
    "WebP of 300 frames": lambda: many_frames("WEBP", 300),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_image_with_much_beside_its_pixels_is_answered(service: Process, name: str) -> None:
    content = ACCEPTED[name]()
    before = status_of(service.process.pid, "VmHWM")
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(service.http.post, QUERY, content=content)
        assert service.http.post(QUERY, content=png(5)).status_code == 200
        answer = asked.result()
    assert answer.status_code in (200, 422), answer.text
    assert status_of(service.process.pid, "VmHWM") < before + 4 * len(content) + 48 * MIB
    assert service.http.post(QUERY, content=png(6)).status_code == 200


@pytest.mark.parametrize("format", ["AVIF", "WEBP", "JPEG2000", "TIFF"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_file_that_is_cut_off_is_one_line(service: Process, format: str, share: float) -> None:
    whole = encoded(random_image(1, (200, 150)), format)
    told = problem(service.http.post(QUERY, content=whole[: int(share * len(whole))]), 422, "images[0]")
    assert "\n" not in told["detail"]


def test_decoders_end_with_a_service_that_is_killed(tmp_path: Path) -> None:
    run("build", write_normal(tmp_path / "images", 4), tmp_path / "root" / "tiles", *BACKBONE, "--no-tune")
    with Process(tmp_path / "root", "--limit", "decoders=2") as process:
        assert process.http.post(QUERY, content=png(3)).status_code == 200
        with ThreadPoolExecutor(1) as pool:
            pool.submit(process.http.post, QUERY, content=slow_bmp())
            children = [int(pid) for pid in children_of(process.process.pid)]
            assert len(children) == 2
            process.process.kill()
            eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10)


def children_of(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task")
    return [child for task in os.listdir(tasks) for child in (tasks / task / "children").read_text().split()]
