"""KServe's protocol v1: forms of instances, answers equal to the native API's, limits, rights and hostile bodies."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spade_index.server.settings import ServeSettings

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png

pytestmark = pytest.mark.usefixtures("decoding_here")
KEY = "key-of-the-screen-1"
AT = "/v1/models/plain:predict"
TEXT = base64.b64encode(png(3)).decode()
GOOD = {"b64": TEXT}
MOST = ServeSettings.request_images


def instance(seed: int) -> dict[str, Any]:
    return {"image_bytes": {"b64": base64.b64encode(png(seed)).decode()}}


def predict(server: Server, model: str, *instances: dict[str, Any]) -> list[dict[str, Any]]:
    answer = server.http.post(f"/v1/models/{model}:predict", json={"instances": instances})
    answer.raise_for_status()
    assert answer.json().keys() == {"predictions"}
    return list(answer.json()["predictions"])


def without_links(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in ("image", "score_map", "anomaly")}


def test_models_and_their_state(shared_server: Server) -> None:
    assert shared_server.http.get("/v1/models").json() == {"models": ["calibrated", "cropped", "other", "plain"]}
    assert shared_server.http.get("/v1/models/plain").json() == {"name": "plain", "ready": True}
    problem(shared_server.http.get("/v1/models/nothing"), 404, "gallery")
    problem(shared_server.http.post("/v1/models/nothing:predict", json={"instances": [GOOD]}), 404, "gallery")


def test_an_empty_gallery_is_not_ready(serve: Callable[..., Server], root: Path) -> None:
    server = serve()
    ids = [image["id"] for image in server.http.get("/v1/galleries/plain/images").json()["images"]]
    server.http.post("/v1/galleries/plain/remove", json={"ids": ids}).raise_for_status()
    problem(server.http.get("/v1/models/plain"), 503)
    problem(server.http.post(AT, json={"instances": [GOOD]}), 409, "gallery")


@pytest.mark.parametrize("model", ["plain", "calibrated"])
def test_predictions_equal_the_native_api(shared_server: Server, model: str) -> None:
    bare = instance(901)["image_bytes"]
    for told, seed in zip(predict(shared_server, model, instance(900), bare), (900, 901), strict=True):
        native = shared_server.query(model, png(seed))
        assert without_links(told) == without_links(native)
        assert (told["score_map"] is None) == (native["score_map"] is None)


def test_anomaly_is_the_complement_of_the_p_value(shared_server: Server) -> None:
    told = predict(shared_server, "calibrated", *map(instance, range(5)))
    assert all(one["anomaly"] == 1 - one["p_value"] and 0 <= one["anomaly"] <= 1 for one in told)
    assert all(isinstance(one["anomalous"], bool) for one in told)
    (plain,) = predict(shared_server, "plain", instance(3))
    assert plain["anomaly"] is plain["p_value"] is plain["anomalous"] is None


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "instances", "no list"),
        ([], "body", "no JSON object"),
        ({"instances": {}}, "instances", "no list"),
        ({"instances": []}, "instances", "0 images"),
        ({"instances": [GOOD] * (MOST + 1)}, "instances", f"{MOST + 1} images"),
        ({"instances": [GOOD], "parameters": {}}, "body", "'parameters'"),
        ({"instances": [TEXT]}, "instances[0]", "no JSON object"),
        ({"instances": [GOOD, {}]}, "instances[1]", "either"),
        ({"instances": [GOOD, {"data": TEXT}]}, "instances[1]", "'data'"),
        ({"instances": [{**GOOD, "image_bytes": GOOD}]}, "instances[0]", "either"),
        ({"instances": [{**GOOD, "key": "1"}]}, "instances[0]", "'key'"),
        ({"instances": [{"image_bytes": TEXT}]}, "instances[0].image_bytes", "no JSON object"),
        ({"instances": [{"image_bytes": {}}]}, "instances[0].image_bytes.b64", "base64"),
        ({"instances": [{"image_bytes": {"b64": TEXT, "x": 1}}]}, "instances[0].image_bytes", "'x'"),
        ({"instances": [{"b64": 1}]}, "instances[0].b64", "base64"),
        ({"instances": [{"b64": None}]}, "instances[0].b64", "base64"),
        ({"instances": [{"b64": "%%%"}]}, "instances[0].b64", "base64"),
        ({"instances": [{"b64": TEXT + "\n"}]}, "instances[0].b64", "base64"),
        ({"instances": [{"b64": "é"}]}, "instances[0].b64", "base64"),
    ],
    ids=lambda value: str(value)[-50:],
)
def test_other_forms_are_refused_with_their_place(shared_server: Server, body: Any, field: str, says: str) -> None:
    before = shared_server.watch.images
    assert says in problem(shared_server.http.post(AT, json=body), 422, field)["detail"]
    assert shared_server.watch.images == before


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"\xff", "UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"instances": [NaN]}', "NaN"),
        (f'{{"instances": [{json.dumps(GOOD)}], "instances": []}}'.encode(), "twice"),
        (f'{{"instances": [{{"b64": "", "b64": "{TEXT}"}}]}}'.encode(), "twice"),
        (b'{"instances": ["\\ud800"]}', "surrogate"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_bodies_are_refused(shared_server: Server, body: bytes, says: str) -> None:
    answer = shared_server.http.post(AT, content=body)
    assert says in problem(answer, 422, "body")["detail"]
    assert len(answer.content) < 2000


def test_an_image_that_cannot_be_decoded_is_named(shared_server: Server) -> None:
    broken = {"b64": base64.b64encode(b"no image").decode()}
    told = problem(shared_server.http.post(AT, json={"instances": [GOOD, broken]}), 422)
    assert "images[1]: cannot be decoded" in told["detail"]
    problem(shared_server.http.post(AT, json={"instances": [{"b64": ""}]}), 422)


def test_a_parameter_is_unknown(shared_server: Server) -> None:
    problem(shared_server.http.post(f"{AT}?maps=never", json={"instances": [GOOD]}), 422, "maps")
    problem(shared_server.http.get("/v1/models?limit=1"), 422, "limit")


def test_limits(serve: Callable[..., Server]) -> None:
    body = json.dumps({"instances": [GOOD, GOOD]}).encode()
    problem(serve(body_bytes=len(body) - 1).http.post(AT, content=body), 413)
    problem(serve(request_images=1).http.post(AT, content=body), 422, "instances")
    problem(serve(json_elements=4).http.post(AT, content=body), 422, "body")
    server = serve(body_bytes=len(body), request_images=2, queue_images=2)
    with server.app.state.service.engine.place() as others:
        others.take(1)
        full = server.http.post(AT, content=body)
        assert len(predict(server, "plain", GOOD)) == 1
    problem(full, 503)
    assert int(full.headers["retry-after"]) >= 1
    assert len(predict(server, "plain", GOOD, GOOD)) == 2
    problem(server.http.post(AT, content=b"x", headers={"Content-Encoding": "gzip"}), 415)


def test_models_need_a_key(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{KEY} plain read")
    headers = {"Authorization": f"Bearer {KEY}"}
    assert server.http.get("/v1/models", headers=headers).json() == {"models": ["plain"]}
    body = {"instances": [GOOD]}
    assert server.http.post(AT, json=body, headers=headers).status_code == 200
    for model, given, status in (("plain", {}, 401), ("other", headers, 403)):
        problem(server.http.get(f"/v1/models/{model}", headers=given), status)
        problem(server.http.post(f"/v1/models/{model}:predict", json=body, headers=given), status)
