"""A real Label Studio shows predictions of a gallery, and its annotations land there: `make test-label-studio`.

The name keeps it out of `make test`, since installing Label Studio takes minutes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.label_studio import CONFIG, in_the_task, unpacked
from helpers.real_label_studio import TOKEN, LabelStudio
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import odd
from helpers.waiting import eventually

KEY = "the-key-of-label-studio"
VERDICTS = ["Anomalous", "Normal", "Anomalous"]  # of the tasks, in their order


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """A Label Studio; the variable LABEL_STUDIO is its program."""
    with LabelStudio(Path(os.environ["LABEL_STUDIO"]).absolute(), tmp_path_factory.mktemp("studio")) as running:
        yield running


@pytest.fixture
def project(studio: LabelStudio) -> int:
    """A project with three tasks: two uploads, and an image within the task."""
    number = studio.project(CONFIG)
    studio.upload(number, "teil 1 ü.png", odd())
    studio.upload(number, "good.png", png(3))
    studio.ask("POST", f"/api/projects/{number}/import", [{"image": in_the_task(odd())}])
    eventually(lambda: len(studio.tasks(number)) == len(VERDICTS))
    return number


def attach(studio: LabelStudio, server: Server, project: int) -> None:
    """Connect the gallery as a model, and give the webhook that this makes the key."""
    url = f"{server.url}/label-studio/calibrated"
    basic = {"auth_method": "BASIC_AUTH", "basic_auth_user": "spade_index", "basic_auth_pass": KEY}
    told = studio.ask("POST", "/api/ml", {"url": url, "project": project, "title": url, **basic})
    assert told["readable_state"] == "Connected"
    (hook,) = [one for one in studio.ask("GET", f"/api/webhooks?project={project}") if one["url"].startswith(url)]
    assert hook["url"] == f"{url}/webhook"
    studio.ask("PATCH", f"/api/webhooks/{hook['id']}/", {"url": hook["url"], "headers": {"X-Api-Key": KEY}})


def annotate(studio: LabelStudio, task: int, choice: str, regions: Sequence[dict[str, Any]] = ()) -> int:
    chosen = {"from_name": "verdict", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
    result = [chosen, *regions]
    return int(studio.ask("POST", f"/api/tasks/{task}/annotations/", {"result": result, "lead_time": 1})["id"])


def choice_of(prediction: dict[str, Any]) -> str:
    (chosen,) = [item["value"]["choices"] for item in prediction["result"] if item["type"] == "choices"]
    return str(chosen[0])


def personal_token(studio: LabelStudio) -> str:
    """Return a personal access token, as the account page makes them."""
    return str(studio.ask("POST", "/api/token/")["token"])


@pytest.mark.parametrize("token", ["legacy", "personal"])
def test_predictions_are_stored_and_annotations_land_in_the_gallery(
    studio: LabelStudio, project: int, serve: Callable[..., Server], token: str
) -> None:
    known = TOKEN if token == "legacy" else personal_token(studio)
    server = serve(keys=f"{KEY} calibrated write # Label Studio", label_studio=studio.url, label_studio_token=known)
    server.http.headers["X-Api-Key"] = KEY
    attach(studio, server, project)

    before = studio.predict(project)
    assert [choice_of(one) for one in before] == VERDICTS
    for one, file in zip(before, (odd(), png(3), odd()), strict=True):
        assert one["score"] == pytest.approx(1 - server.query("calibrated", file)["p_value"])
    drawn = [item for item in before[0]["result"] if item["type"] == "brushlabels"]
    assert drawn
    for item in drawn:
        packed = item["value"]["rle"]
        assert studio.decoded(packed) == unpacked(packed).tobytes()
    assert {item["type"] for item in before[0]["result"]} == {"choices", "brushlabels", "polygonlabels"}

    task = studio.tasks(project)[0]["id"]
    said = annotate(studio, task, "Normal")
    eventually(lambda: not server.query("calibrated", odd())["anomalous"])
    (row,) = server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"]
    assert row["id"].startswith(f"feedback/label-studio/{said}/")
    assert row["id"].endswith("teil_1_ü.png")
    assert f"task {task}, annotation {said}" in row["note"]
    after = studio.predict(project)
    assert [choice_of(one) for one in after] == ["Normal"] * len(VERDICTS)
    assert {one["model_version"] for one in after}.isdisjoint(one["model_version"] for one in before)

    studio.ask("DELETE", f"/api/annotations/{said}/")
    eventually(lambda: server.query("calibrated", odd())["anomalous"])
    assert [choice_of(one) for one in studio.predict(project)] == VERDICTS

    images = server.http.get("/v1/galleries/calibrated").json()["images"]
    annotate(studio, task, "Anomalous", drawn)
    noted = 'spade_index_label_studio_annotations_total{outcome="defect"}'
    eventually(lambda: server.metric(noted) == 1)
    eventually(lambda: server.query("calibrated", odd())["regions"][0]["known_defect"] is not None)
    assert server.query("calibrated", odd())["regions"][0]["known_defect"]["kind"] == "Defect"
    assert server.http.get("/v1/galleries/calibrated").json()["images"] == images


def test_a_wrong_key_is_told_when_the_model_is_connected(
    studio: LabelStudio, project: int, serve: Callable[..., Server]
) -> None:
    server = serve(keys=f"{KEY} calibrated write")
    body = {"url": f"{server.url}/label-studio/calibrated", "project": project, "auth_method": "BASIC_AUTH"}
    body |= {"basic_auth_user": "spade_index", "basic_auth_pass": "another-key-0123456789"}
    with pytest.raises(AssertionError, match="authentication parameters"):
        studio.ask("POST", "/api/ml", body)
