"""Tests of hostile images: mutations of real files, by which decoders are made to fail."""

import io
import random
import resource
import struct
import zlib
from collections import Counter

import pytest
from PIL import Image

from helpers.http_answers import problem
from helpers.mutations import FORMATS, MUTATE, drop, flip, originals, set_a_number, truncate
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import encoded, parts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow notices in damaged files

MUTATIONS = 100  # of each format; fewer of PNG have no image that is still one
QUERY = "/v1/galleries/plain/query"
MEMORY = 500 << 20  # bytes that the service may take more after all of them than before


def hostile(format: str) -> list[bytes]:
    rng = random.Random(format)
    files = originals(format)
    others = [data for other in FORMATS if other != format for data in originals(other)]
    return [
        MUTATE[number % len(MUTATE)](bytearray(rng.choice(files)), rng, others) or b"\0" for number in range(MUTATIONS)
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_mutated_files_are_answered_without_side_effects(shared_server: Server, format: str, caplog) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    answers: Counter[int] = Counter()
    for number, data in enumerate(hostile(format)):
        answer = shared_server.http.post(QUERY, content=data)
        answers[answer.status_code] += 1
        if answer.status_code == 200:
            told = answer.json()["results"][0]
            if number % 5 == 0:
                assert shared_server.http.get(told["score_map"]["overlay"]).status_code == 200
        else:
            problem(answer, 422, "images[0]")
            assert answer.json()["detail"].isprintable()
    assert set(answers) == {200, 422}
    assert shared_server.query("plain", png(3))["neighbours"][0]["id"] == "003.png"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MEMORY


def test_mutated_files_are_skipped_by_a_job(server: Server) -> None:
    files = [(f"{format}-{number}", data) for format in FORMATS for number, data in enumerate(hostile(format)[:12])]
    job = server.http.post("/v1/galleries/plain/images", files=parts(*files, ("good.png", png(70)))).json()["id"]
    told = server.finished(job)
    report = told["report"]
    assert report["added"] + report["copies"] + report["failed"] == len(files) + 1
    assert report["failed"] == len([notice for notice in told["notices"] if "same file" not in notice])
    assert server.query("plain", png(70))["neighbours"][0]["distance"] == 0


@pytest.mark.parametrize("mutate", [flip, truncate, set_a_number, drop])
def test_mutated_forms_are_answered(shared_server: Server, mutate) -> None:
    rng = random.Random(mutate.__name__)
    whole = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        + png(1)
        + b'\r\n--b\r\nContent-Disposition: form-data; name="images"; filename="b.png"\r\n\r\n'
        + png(2)
        + b"\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for _ in range(25):
        # Mostly of the heads, where the form is.
        cut = rng.choice([130, len(whole)])
        body = mutate(bytearray(whole[:cut]), rng, []) + whole[cut:]
        answer = shared_server.http.post(QUERY, content=body, headers=headers)
        assert answer.status_code in (200, 400, 422), answer.content
    assert shared_server.query("plain", png(3))["neighbours"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bombs() -> dict[str, bytes]:
    """Small files that become large."""
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 30, 8, 2, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(bytes(30 * 91))) + chunk(b"IEND", b"")
    large = zlib.compress(bytes(300 << 20), 9)
    pixels = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(pixels, "PNG")
    tiff = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(tiff, "TIFF", compression="group4")
    return {
        "text": head + chunk(b"zTXt", b"a\0\0" + large) + end,
        "profile": head + chunk(b"iCCP", b"a\0\0" + large) + end,
        "data": head + chunk(b"IDAT", large) + chunk(b"IEND", b""),
        "pixels": pixels.getvalue(),
        "tiff": tiff.getvalue(),
    }


def test_decompression_bombs_use_little_memory(shared_server: Server) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    for name, data in bombs().items():
        assert len(data) < 1 << 20
        answer = shared_server.http.post(QUERY, content=data)
        assert answer.status_code in (200, 422), name
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MEMORY
    assert shared_server.query("plain", png(3))["neighbours"]


def of_many_scans(scans: int) -> bytes:
    """A JPEG file whose last scan is there many times."""
    data = encoded(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + b"\xff\xd9"


def test_a_small_file_that_is_slow_to_decode_is_refused(server: Server) -> None:
    told = problem(server.http.post(QUERY, content=of_many_scans(100_000)), 422, "images[0]")
    assert "scans" in told["detail"]
    assert server.http.post(QUERY, content=of_many_scans(3)).status_code == 200
    files = parts(("slow.jpg", of_many_scans(100_000)), ("good.png", png(70)))
    job = server.http.post("/v1/galleries/plain/images", files=files).json()["id"]
    told = server.finished(job)
    assert (told["report"]["added"], told["report"]["failed"]) == (1, 1)
    assert "slow.jpg" in told["notices"][0]
