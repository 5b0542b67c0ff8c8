"""The service finds what the command line finds, to the last bit of float32."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.server.galleries import backbone_of

from helpers.cli_runs import BACKBONE, normal, objects, run, write_normal
from helpers.serving import Server


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder of galleries, whole and cropped, and images to ask for."""
    folder = tmp_path_factory.mktemp("bits")
    images = write_normal(folder / "images", 12)
    (folder / "queries").mkdir()
    for number in range(3):
        image = normal(200 + number)
        image.paste("white", (20 + number, 30, 40, 50))
        image.save(folder / "queries" / f"{number}.png")
    run("build", images, folder / "root" / "whole", *BACKBONE)
    run("build", images, folder / "root" / "cropped", *BACKBONE, "--resize", "72")
    return folder


def asked(server: Server, gallery: str, data: bytes) -> dict:
    """By a hand-written client over a socket."""
    with server.connect() as connection:
        answer = connection.request(
            "POST", f"/v1/galleries/{gallery}/query?maps=always", data, Content_Type="image/png"
        )
        assert answer.status_code == 200, answer.content
        told = answer.json()["results"][0]
        npy = connection.request("GET", told["score_map"]["npy"])
        return told | {"values": np.load(io.BytesIO(npy.content), allow_pickle=False)}


def bits(value: float) -> bytes:
    return struct.pack("<f", value)


@pytest.mark.parametrize("gallery", ["whole", "cropped"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_service_and_the_command_line_agree_to_the_last_bit(
    serve, made: Path, tmp_path: Path, gallery: str, calibrated: bool
) -> None:
    if calibrated:
        run("calibrate", made / "root" / gallery)
    server = serve(root=made / "root", load=backbone_of, device="cpu")
    for path in sorted((made / "queries").iterdir()):
        (expected,) = objects(run("query", made / "root" / gallery, path, "--json", "--out", tmp_path / path.stem))
        told = asked(server, gallery, path.read_bytes())
        assert bits(told["score"]) == bits(expected["score"])
        assert told["score"] == expected["score"]
        assert told["scores"] == expected["scores"]
        for field in ("threshold", "anomalous", "snapshot", "neighbours", "evidence"):
            assert told[field] == expected[field]
        values = np.load(expected["score_map"])
        assert told["values"].dtype == values.dtype == np.float32
        assert told["values"].tobytes() == values.tobytes()
        x, y = told["evidence"]["pixel"]
        match = server.http.get(told["score_map"]["match"], params={"x": x, "y": y}).json()
        assert {field: match[field] for field in told["evidence"]} == expected["evidence"]
        overlay = server.http.get(told["score_map"]["overlay"]).content
        assert Image.open(io.BytesIO(overlay)).size == Image.open(path).size


def test_a_score_does_not_depend_on_the_batch(serve, made: Path) -> None:
    server = serve(root=made / "root", load=backbone_of, device="cpu")
    queries = [path.read_bytes() for path in sorted((made / "queries").iterdir())]
    alone = [asked(server, "whole", data)["score"] for data in queries]
    files = [("images", (str(number), data, "image/png")) for number, data in enumerate(queries)]
    together = server.http.post("/v1/galleries/whole/query?maps=always", files=files).json()["results"]
    assert [result["score"] for result in together] == pytest.approx(alone, rel=1e-4)
