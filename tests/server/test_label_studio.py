"""Predictions for Label Studio: which tags get results, and that these are what the native API says."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spade_index.server import limits

from helpers.http_answers import problem
from helpers.label_studio import CONFIG, asking, in_the_task, recorded, saying, unpacked
from helpers.limit_table import status
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import encoded, odd

AT = "/label-studio/calibrated"
IMAGE = '<Image name="image" value="$image"/>'
CHOICES = '<Choices name="verdict" toName="image"><Choice value="Normal"/><Choice value="Anomalous"/></Choices>'
BRUSH = '<BrushLabels name="mask" toName="image"><Label value="Scratch"/><Label value="Stain"/></BrushLabels>'
POLYGON = '<PolygonLabels name="outline" toName="image"><Label value="Defect"/></PolygonLabels>'


def predict(server: Server, body: dict[str, Any], gallery: str = "calibrated") -> dict[str, Any]:
    answer = server.http.post(f"/label-studio/{gallery}/predict", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def kinds(prediction: dict[str, Any]) -> set[str]:
    return {item["type"] for item in prediction["result"]}


def test_a_gallery_is_up_if_there_is_one(shared_server: Server) -> None:
    assert shared_server.http.get(f"{AT}/health").json()["status"] == "UP"
    problem(shared_server.http.get("/label-studio/nothing/health"), 404, "gallery")
    for path, name in (("setup", "setup"), ("predict", "predict"), ("webhook", "created")):
        problem(shared_server.http.post(f"/label-studio/nothing/{path}", json=recorded(name)), 404, "gallery")


def test_setup_and_predictions_name_one_version(server: Server) -> None:
    version = server.http.post(f"{AT}/setup", json=recorded("setup")).json()["model_version"]
    (told,) = predict(server, asking(in_the_task(png(3))))["results"]
    assert told["model_version"] == version
    assert version.startswith("calibrated@")
    server.http.post("/v1/galleries/calibrated/remove", json={"ids": ["003.png"]}).raise_for_status()
    assert server.http.post(f"{AT}/setup", json=recorded("setup")).json()["model_version"] != version


def test_predictions_are_what_the_native_api_says(shared_server: Server) -> None:
    files = [odd(), png(3), png(900)]
    told = predict(shared_server, asking(*map(in_the_task, files)))
    assert told["notices"] == []
    for file, prediction in zip(files, told["results"], strict=True):
        native = shared_server.query("calibrated", file)
        assert prediction["score"] == 1 - native["p_value"]
        choice = prediction["result"][0]
        assert choice["value"] == {"choices": ["Anomalous" if native["anomalous"] else "Normal"]}
        assert (choice["from_name"], choice["to_name"], choice["type"]) == ("verdict", "image", "choices")
        regions = native["regions"] or [] if native["anomalous"] else []
        drawn = [item for item in prediction["result"] if item["type"] == "polygonlabels"]
        for region, item in zip(regions, drawn, strict=True):
            scale = item["original_width"] / 100, item["original_height"] / 100
            assert np.allclose(np.array(item["value"]["points"]) * scale, region["polygon"], atol=1e-3)
            assert item["value"]["polygonlabels"] == ["Defect"]
        ids = [item["id"] for item in prediction["result"]]
        assert len({*ids}) == len(ids)
    assert kinds(told["results"][0]) == {"choices", "brushlabels", "polygonlabels"}
    assert kinds(told["results"][1]) == {"choices"}


def test_a_brush_mask_is_where_the_polygon_is(shared_server: Server) -> None:
    (told,) = predict(shared_server, asking(in_the_task(odd())))["results"]
    of = {item["type"]: item for item in told["result"]}
    values = unpacked(of["brushlabels"]["value"]["rle"]).reshape(36, 40, 4)
    assert (values == values[..., :1]).all()
    assert (of["brushlabels"]["original_width"], of["brushlabels"]["original_height"]) == (40, 36)
    rows, columns = np.nonzero(values[..., 3])
    points = np.array(of["polygonlabels"]["value"]["points"]) * (0.4, 0.36)
    assert np.allclose([columns.min(), rows.min()], points.min(0), atol=1)
    assert np.allclose([columns.max() + 1, rows.max() + 1], points.max(0), atol=1)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (IMAGE + CHOICES, {"choices"}),
        (BRUSH + IMAGE, {"brushlabels"}),
        (IMAGE + POLYGON, {"polygonlabels"}),
        (IMAGE + f"<View style='x'><View>{CHOICES}</View>{BRUSH}</View>", {"choices", "brushlabels"}),
        (IMAGE + BRUSH + CHOICES.replace("toName", 'perRegion="true" toName'), {"brushlabels"}),
        (IMAGE + BRUSH + CHOICES.replace("Normal", "Blue"), {"brushlabels"}),
        ('<Image name="other" value="$other"/>' + IMAGE + CHOICES, {"choices"}),
        (IMAGE + POLYGON + '<BrushLabels name="mask" toName="image" value="$labels"/>', {"polygonlabels"}),
    ],
    ids=["choices", "brush", "polygon", "nested", "per region", "other question", "other image", "labels of tasks"],
)
def test_the_tags_of_the_config_get_results(shared_server: Server, tags: str, found: set[str]) -> None:
    (told,) = predict(shared_server, asking(in_the_task(odd()), config=f"<View>{tags}</View>"))["results"]
    assert kinds(told) == found


def test_results_state_what_the_config_calls_things(shared_server: Server) -> None:
    config = f"<View>{IMAGE}{BRUSH}{CHOICES}</View>".replace('"Anomalous"', '" anomalous" alias="ng"')
    (told,) = predict(shared_server, asking(in_the_task(odd()), config=config))["results"]
    assert told["result"][0]["value"] == {"choices": ["ng"]}
    assert told["result"][1]["value"]["brushlabels"] == ["Scratch"]


def test_without_a_calibration_there_is_no_result(shared_server: Server) -> None:
    (told,) = predict(shared_server, asking(in_the_task(odd())), "plain")["results"]
    assert (told["result"], told["score"]) == ([], None)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (f"<View>{CHOICES}</View>", "nothing to predict"),
        (f"<View>{IMAGE}</View>", "nothing to predict"),
        (f"<View>{IMAGE}{CHOICES.replace('toName', 'for')}</View>", "nothing to predict"),
        (f"<View>{IMAGE}{CHOICES}", "not XML"),
        ("", "not XML"),
        (f"<View>{IMAGE}{CHOICES.replace('verdict', 'v' * 1025)}</View>", "1,024 characters"),
        (f'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>{IMAGE}{CHOICES}&a;</View>', "document type"),
        (f'<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><View>{IMAGE}{CHOICES}</View>', "document type"),
        ("<View>" * 40_000, "not XML"),
        (None, "no labeling config"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_a_config_that_is_of_no_use_is_refused(shared_server: Server, config: str | None, says: str) -> None:
    setup = shared_server.http.post(f"{AT}/setup", json=recorded("setup") | {"schema": config})
    assert says in problem(setup, 422, "schema")["detail"]
    body = asking(in_the_task(png(3))) | {"label_config": config}
    assert says in problem(shared_server.http.post(f"{AT}/predict", json=body), 422, "label_config")["detail"]


def test_an_image_without_a_prediction_leaves_the_others_theirs(shared_server: Server) -> None:
    body = asking(in_the_task(png(3)), in_the_task(b"no image"), "data:image/png,plain", "/data/upload/1/a.png", "")
    body["tasks"][4]["data"] = {"image": 5}
    told = predict(shared_server, body)
    assert [bool(one) for one in told["results"]] == [True, False, False, False, False]
    assert told["results"][1:] == [[]] * 4
    for notice, says in zip(told["notices"], ("decoded", "base64", "--label-studio", "'image'"), strict=True):
        assert says in notice


def test_a_large_image_has_the_place_of_a_region_in_percent(shared_server: Server) -> None:
    large = encoded(Image.open(io.BytesIO(odd())).resize((400, 360), Image.Resampling.NEAREST))
    (told,) = predict(shared_server, asking(in_the_task(large), config=f"<View>{IMAGE}{POLYGON}</View>"))["results"]
    for item in told["result"]:
        points = np.array(item["value"]["points"])
        assert (points >= 0).all()
        assert (points <= 100).all()
        assert (item["original_width"], item["original_height"], item["image_rotation"]) == (400, 360, 0)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("setup", b"", "body"),
        ("setup", b"[]", "body"),
        ("predict", b"[" * 50_000, "body"),
        ("predict", b'{"tasks": [], "tasks": []}', "body"),
        ("webhook", b"\xff", "body"),
        ("webhook", b"{}x", "body"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(shared_server: Server, path: str, body: bytes, field: str) -> None:
    problem(shared_server.http.post(f"{AT}/{path}", content=body), 422, field)


@pytest.mark.parametrize(
    ("tasks", "field"),
    [
        (None, "tasks"),
        ([], "tasks"),
        ({}, "tasks"),
        ([1], "tasks[0]"),
        ([{"id": 1}], "tasks[0]"),
        ([{"id": "1", "data": {}}], "tasks[0]"),
        ([{"id": 1, "data": {}}, {"data": {}}], "tasks[1]"),
    ],
    ids=str,
)
def test_tasks_that_are_none_are_refused_with_their_place(shared_server: Server, tasks: Any, field: str) -> None:
    body = recorded("predict") | {"tasks": tasks}
    problem(shared_server.http.post(f"{AT}/predict", json=body), 422, field)


@pytest.mark.parametrize(
    "change",
    [
        {"annotation": None},
        {"annotation": {"id": "1"}},
        {"annotation": {"id": -1}},
        {"annotation": [{"id": 1}, {"id": 2}]},
        {"project": 1},
        {"task": 1},
    ],
    ids=str,
)
def test_an_event_that_cannot_be_read_is_refused(shared_server: Server, change: dict[str, Any]) -> None:
    event = saying("Normal", in_the_task(odd())) | change
    problem(shared_server.http.post(f"{AT}/webhook", json=event), 422, "body")
    event.pop(next(iter(change)))
    problem(shared_server.http.post(f"{AT}/webhook", json=event), 422, "body")


@pytest.mark.parametrize("action", ["START_TRAINING", "PROJECT_UPDATED", "TASKS_CREATED", None, 5])
def test_other_events_are_ignored(shared_server: Server, action: Any) -> None:
    answer = shared_server.http.post(f"{AT}/webhook", json={"action": action, "project": {"id": 1}})
    assert (answer.status_code, answer.json()) == (200, {"annotations": []})


def test_predictions_are_as_large_as_a_query_in_all(serve: Callable[..., Server]) -> None:
    config = f"<View>{IMAGE}{CHOICES}{BRUSH}{POLYGON}</View>".replace("Scratch", "s" * 1000).replace(
        "Defect", "d" * 1000
    )
    body = asking(*[in_the_task(odd())] * 6, config=config)
    told = predict(serve(body_bytes=len(json.dumps(body))), body)
    assert 0 < len(told["notices"]) < 6
    assert all("fewer tasks" in notice for notice in told["notices"])
    assert told["results"].count([]) == len(told["notices"])


def test_limit_label_tasks(shared_server: Server) -> None:
    task = {"id": 1, "data": {}}
    most = recorded("predict") | {"tasks": [task] * limits.LABEL_TASKS}
    assert len(predict(shared_server, most)["notices"]) == limits.LABEL_TASKS
    more = most | {"tasks": [task] * (limits.LABEL_TASKS + 1)}
    problem(shared_server.http.post(f"{AT}/predict", json=more), status("label_tasks"), "tasks")


def test_limit_config_bytes(shared_server: Server) -> None:
    config = f"<View>{IMAGE}{CHOICES}{{}}</View>"
    most = config.format(" " * (limits.CONFIG_BYTES - len(config) + 2))
    setup = recorded("setup") | {"schema": most}
    assert shared_server.http.post(f"{AT}/setup", json=setup).status_code == 200
    refused = shared_server.http.post(f"{AT}/setup", json=setup | {"schema": f" {most}"})
    problem(refused, status("config_bytes"), "schema")


def test_the_recorded_config_has_all_tags() -> None:
    assert all(tag in CONFIG for tag in ("<Choices", "<BrushLabels", "<PolygonLabels"))
