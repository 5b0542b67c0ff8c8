"""Regions in the answers of the service."""

from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import odd


def test_regions_surround_what_looks_worse_than_normal_images(shared_server: Server) -> None:
    told = shared_server.query("calibrated", odd(), maps="always")
    worst = told["regions"][0]
    assert worst["score"] == told["score_map"]["max"]
    assert 0 < worst["area"] <= 40 * 36
    assert all(0 <= x <= 40 and 0 <= y <= 36 for x, y in worst["polygon"])
    x, y, width, height = worst["box"]
    column, row = told["evidence"]["pixel"]
    assert x - 1 <= column <= x + width
    assert y - 1 <= row <= y + height
    again = shared_server.http.get(f"/v1/results/{told['score_map']['id']}").json()
    assert again["regions"] == told["regions"]
    assert shared_server.query("calibrated", png(3), maps="always")["regions"] == []
    assert shared_server.query("calibrated", odd(), maps="never")["regions"] is None
    assert shared_server.query("plain", odd(), maps="always")["regions"] is None
