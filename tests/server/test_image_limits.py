"""Limits of images: how many, and how large."""

import struct
import zlib

import pytest

from helpers.http_answers import problem
from helpers.tiny import png
from helpers.uploads import parts

QUERY = "/v1/galleries/plain/query"


def claimed_png(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_too_many_images_are_refused(serve) -> None:
    server = serve(request_images=3)
    files = [(f"{seed}.png", png(seed)) for seed in range(4)]
    told = problem(server.http.post(QUERY, files=parts(*files)), 422, "images")
    assert "3" in told["detail"]
    assert len(server.http.post(QUERY, files=parts(*files[:3])).json()["results"]) == 3
    problem(server.http.post("/v1/galleries/plain/score-map", files=parts(*files[:2])), 422, "images")


def test_too_many_images_to_add_are_refused(serve) -> None:
    server = serve(add_images=3)
    files = [(f"{seed}.png", png(seed)) for seed in range(100, 104)]
    problem(server.http.post("/v1/galleries/plain/images", files=parts(*files)), 422, "images")
    assert server.http.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (30_000, 3), (0, 0)])
def test_an_image_that_claims_too_many_pixels_is_refused(serve, size: tuple[int, int]) -> None:
    server = serve(image_pixels=50_000)
    problem(server.http.post(QUERY, content=claimed_png(*size)), 422, "images[0]")
    assert server.query("plain", png(3))["neighbours"]


def test_the_pixel_limit_is_a_setting(serve, root) -> None:
    small = serve(image_pixels=40 * 36 - 1)
    told = problem(small.http.post(QUERY, content=png(3)), 422, "images[0]")
    assert "1,439" in told["detail"]
    job = small.http.post("/v1/galleries/plain/images", files=parts(("new.png", png(99)))).json()
    report = small.finished(job["id"])
    assert report["report"]["failed"] == 1
    assert "1,439" in report["notices"][0]
    exact = serve(image_pixels=40 * 36)
    told = exact.query("plain", png(3))
    assert exact.http.get(told["score_map"]["overlay"]).status_code == 200
