import base64
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from click.testing import CliRunner
from tritonclient.utils import InferenceServerException

from spade_index.cli import main
from spade_index.cli.backbone_options import BackboneOptions
from spade_index.gallery import Gallery

from helpers.serving import Server
from helpers.tiny import png, random_image, tiny_backbone, write_images

pytestmark = pytest.mark.usefixtures("decoding_here")


@pytest.fixture
def client(shared_server):
    with triton.InferenceServerClient(f"127.0.0.1:{shared_server.port}") as client:
        yield client


def images(*seeds: int, binary: bool = True) -> list[triton.InferInput]:
    tensor = triton.InferInput("image", [len(seeds)], "BYTES")
    files = [png(seed) for seed in seeds]
    if not binary:
        files = [base64.b64encode(file) for file in files]
    tensor.set_data_from_numpy(np.array(files, object), binary_data=binary)
    return [tensor]


def pixels(*seeds: int, binary: bool = True) -> list[triton.InferInput]:
    values = np.stack([np.asarray(random_image(seed)) for seed in seeds])
    tensor = triton.InferInput("pixels", list(values.shape), "UINT8")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return [tensor]


def test_health_and_metadata(client, shared_server):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("plain")
    assert client.is_model_ready("plain", "1")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
    told = client.get_model_metadata("plain")
    assert told["name"] == "plain"
    assert told["versions"][-1] == str(shared_server.http.get("/v1/galleries/plain").json()["snapshot"])
    assert {tensor["name"]: tensor["datatype"] for tensor in told["inputs"]} == {"image": "BYTES", "pixels": "UINT8"}
    assert {tensor["name"]: tensor["shape"] for tensor in told["outputs"]} == {
        "score": [-1],
        "anomalous": [-1],
        "threshold": [-1],
        "score_map": [-1, 32, 32],
        "neighbour": [-1, 3],
        "distance": [-1, 3],
    }


def test_all_models_are_listed_with_their_state(serve, root):
    (root / "broken").mkdir()
    (root / "broken" / "catalog.sqlite").write_bytes(b"not a catalog" * 100)
    with triton.InferenceServerClient(f"127.0.0.1:{serve().port}") as client:
        states = {model["name"]: model["state"] for model in client.get_model_repository_index()}
    assert states == dict.fromkeys(["calibrated", "cropped", "other", "plain"], "READY") | {"broken": "UNAVAILABLE"}


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_equal_the_native_api(client, shared_server, binary):
    names = ("score", "anomalous", "threshold", "score_map", "neighbour", "distance")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    answer = client.infer("calibrated", images(900, 901, binary=binary), outputs=outputs, request_id="seven")
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_name"] == "calibrated"
    for place, seed in enumerate((900, 901)):
        told = shared_server.query("calibrated", png(seed), maps="always")
        assert answer.get_response()["model_version"] == str(told["snapshot"])
        assert answer.as_numpy("score")[place] == np.float32(told["score"])
        assert answer.as_numpy("threshold")[place] == np.float32(told["threshold"])
        assert answer.as_numpy("anomalous")[place] == told["anomalous"]
        names = [n if isinstance(n, str) else n.decode() for n in answer.as_numpy("neighbour")[place]]
        assert names == [n["id"] for n in told["neighbours"]]
        distances = np.array([n["distance"] for n in told["neighbours"]], np.float32)
        np.testing.assert_array_equal(answer.as_numpy("distance")[place], distances)
        kept = np.load(io.BytesIO(shared_server.http.get(told["score_map"]["npy"]).content))
        np.testing.assert_array_equal(answer.as_numpy("score_map")[place].reshape(32, 32), kept)


def test_pixels_score_like_files(client):
    of_files = client.infer("plain", images(5, 6)).as_numpy("score")
    np.testing.assert_array_equal(client.infer("plain", pixels(5, 6)).as_numpy("score"), of_files)
    np.testing.assert_array_equal(client.infer("plain", pixels(5, 6, binary=False)).as_numpy("score"), of_files)


def test_score_maps_are_computed_only_on_request(client, shared_server):
    def asked(*outputs: str, **parameters: str):
        wanted = [triton.InferRequestedOutput(name) for name in outputs] or None
        return client.infer("calibrated", images(3), outputs=wanted, parameters=parameters or None)

    pooled = shared_server.query("calibrated", png(3), maps="never")["score"]
    both = shared_server.query("calibrated", png(3), maps="always")["score"]
    assert asked("score").as_numpy("score")[0] == np.float32(pooled)  # calibrated: only of suspicious images
    assert asked("score", "score_map").as_numpy("score")[0] == np.float32(both)
    assert asked().as_numpy("score")[0] == np.float32(both)
    without = asked("score", "score_map", maps="never")
    assert without.as_numpy("score")[0] == np.float32(pooled)
    assert np.isnan(without.as_numpy("score_map")).all()


def test_without_a_threshold_nothing_is_anomalous_and_the_threshold_is_nan(client):
    answer = client.infer("plain", images(3))
    assert np.isnan(answer.as_numpy("threshold")).all()
    assert not answer.as_numpy("anomalous").any()
    assert client.infer("plain", images(3), parameters={"threshold": -1.0}).as_numpy("anomalous").all()


def test_a_version_is_a_snapshot(serve, root):
    server: Server = serve()
    with Gallery(root / "plain") as gallery:
        snapshot = gallery.snapshot
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        before = client.infer("plain", images(1003))
        nearest = before.as_numpy("neighbour")[0, 0].decode()
        server.http.post("/v1/galleries/plain/remove", json={"ids": [nearest]}).raise_for_status()
        now = client.infer("plain", images(1003))
        then = client.infer("plain", images(1003), model_version=str(snapshot))
    assert now.get_response()["model_version"] == str(snapshot + 1)
    assert nearest.encode() not in now.as_numpy("neighbour")
    for name in ("score", "score_map", "neighbour", "distance"):
        np.testing.assert_array_equal(then.as_numpy(name), before.as_numpy(name))


@pytest.mark.parametrize(
    ("model", "version", "inputs", "status"),
    [
        ("nothing", "", images(1), "404"),
        ("plain", "77", images(1), "404"),
        ("plain", "latest", images(1), "404"),
        ("plain", "", [], "400"),
        ("plain", "", images(1) + pixels(1), "400"),
        ("plain", "", images(*range(40)), "400"),
        ("plain", "", [triton.InferInput("image", [0], "BYTES")], "400"),
    ],
)
def test_errors_follow_the_protocol(client, model, version, inputs, status):
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, inputs, model_version=version)
    assert refused.value.status() == status
    assert refused.value.message()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"outputs": [{"name": "nothing"}]}, "there are score,"),
        ({"parameters": {"maps": "perhaps"}}, "always, auto, never"),
        ({"parameters": {"maps": "auto"}}, "needs a threshold"),
        ({"parameters": {"threshold": "high"}}, "must be a number"),
        ({"parameters": {"threshold": True}}, "must be a number"),
    ],
)
def test_invalid_requests_are_explained(shared_server, changes, says):
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png(1)).decode()]}
    answer = shared_server.http.post("/v2/models/plain/infer", json={"inputs": [image], **changes})
    assert answer.status_code in (400, 422)
    assert says in answer.json()["error"]


def test_an_undecodable_image_is_named(shared_server):
    data = [base64.b64encode(file).decode() for file in (png(1), b"no image")]
    image = {"name": "image", "datatype": "BYTES", "shape": [2], "data": data}
    answer = shared_server.http.post("/v2/models/plain/infer", json={"inputs": [image]})
    assert answer.status_code == 422
    assert "images[1]: cannot be decoded" in answer.json()["error"]


def test_limits_are_reported_as_the_protocol_says(serve):
    server = serve(body_bytes=1000)
    answer = server.http.post("/v2/models/plain/infer", content=b"x" * 2000)
    assert answer.status_code == 413
    assert "over the limit" in answer.json()["error"]
    answer = server.http.post("/v2/models/plain/infer", content=b"x", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def test_models_need_a_key(serve):
    keys = "key-of-the-screen-1 plain read"
    with triton.InferenceServerClient(f"127.0.0.1:{serve(keys=keys).port}") as client:
        assert client.is_server_ready()
        headers = {"Authorization": "Bearer key-of-the-screen-1"}
        assert [model["name"] for model in client.get_model_repository_index(headers=headers)] == ["plain"]
        assert client.infer("plain", images(1), headers=headers).as_numpy("score").shape == (1,)
        for model, given, status in (("plain", {}, "401"), ("other", headers, "403")):
            with pytest.raises(InferenceServerException) as refused:
                client.infer(model, images(1), headers=given)
            assert refused.value.status() == status


def test_every_client_gets_the_same_bits_as_the_command_line(serve, root, tmp_path, monkeypatch):
    """tritonclient, a hand-written client of either API, and `spade-index query` agree to the last bit."""
    monkeypatch.setattr(BackboneOptions, "load", lambda self, device, gallery=None, preset=None: tiny_backbone())
    queries = write_images(tmp_path / "queries", 3, seed=4)
    out = tmp_path / "out"
    ran = CliRunner().invoke(main, ["query", str(root / "plain"), str(queries), "--json", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    server: Server = serve()
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client, server.connect() as raw:
        for line in ran.stdout.splitlines():
            told = json.loads(line)
            file = Path(told["path"]).read_bytes()
            score, score_map = np.float32(told["score"]), np.load(told["score_map"])
            tensor = triton.InferInput("image", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([file], object))
            found = client.infer("plain", [tensor])
            assert found.as_numpy("score")[0] == score
            np.testing.assert_array_equal(found.as_numpy("score_map")[0], score_map)

            native = raw.request("POST", "/v1/galleries/plain/query?maps=always", file, Content_Type="image/png").json()
            assert np.float32(native["results"][0]["score"]) == score

            head = json.dumps(
                {
                    "inputs": [
                        {
                            "name": "image",
                            "datatype": "BYTES",
                            "shape": [1],
                            "parameters": {"binary_data_size": len(file) + 4},
                        }
                    ],
                    "outputs": [{"name": "score_map", "parameters": {"binary_data": True}}],
                }
            ).encode()
            answer = raw.request(
                "POST",
                "/v2/models/plain/infer",
                head + struct.pack("<I", len(file)) + file,
                Inference_Header_Content_Length=str(len(head)),
            )
            behind = answer.content[int(answer.headers["inference-header-content-length"]) :]
            assert behind == score_map.tobytes()
