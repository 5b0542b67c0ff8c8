"""Read the events that Label Studio posts: what each annotation says about its image."""

from dataclasses import dataclass
from typing import Any, Literal

from .config import ConfigError, controls_of

MOST_ID = 1 << 63
CREATED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED")
UPDATED = "ANNOTATION_UPDATED"
DELETED = "ANNOTATIONS_DELETED"

Outcome = Literal["accepted", "taken_back", "not_recorded", "ignored"]


class EventError(ValueError):
    """An event that cannot be read, in one line."""


@dataclass(frozen=True)
class Heard:
    """What an event tells of one annotation.

    accepted: it says "Normal", which counts if its image is called anomalous when it is looked at
    taken_back: it says nothing any longer, so what it said before is undone
    not_recorded: it says "Anomalous", which makes no known defect. What it said before is undone
    ignored: it says neither
    """

    id: int
    outcome: Outcome
    changes: bool  # whether there is something to do, or may be
    normal: str | None = None  # the image that it calls normal, as its task names it
    note: str = ""


def heard(event: dict[str, Any]) -> list[Heard]:
    """Return what an event tells; nothing, if it is about something else than annotations. Raises EventError."""
    action = event.get("action")
    if action == DELETED:
        return [Heard(_id(one), "taken_back", True) for one in _listed(event, "annotations")]
    if action not in (*CREATED, UPDATED):
        return []
    annotations, tasks = _listed(event, "annotation"), _listed(event, "task")
    if len(annotations) != len(tasks):
        raise EventError(f"{len(annotations)} annotations of {len(tasks)} tasks")
    config = _object(event.get("project"), "project").get("label_config")
    return [_heard(one, task, config, action) for one, task in zip(annotations, tasks, strict=True)]


def _heard(annotation: dict[str, Any], task: dict[str, Any], config: Any, action: str) -> Heard:
    number, renewed = _id(annotation), action == UPDATED
    try:
        controls = controls_of(config if isinstance(config, str) else "")
    except ConfigError:
        return Heard(number, "ignored", False)
    if (tag := controls.choice) is None:
        return Heard(number, "ignored", False)
    answer = None if annotation.get("was_cancelled") else _answer(annotation.get("result"), tag.name)
    image = _object(task.get("data"), "task.data").get(controls.key)
    if answer == tag.normal and isinstance(image, str):
        by = annotation.get("updated_by") or annotation.get("completed_by")
        note = f"Label Studio: project {task.get('project')}, task {task.get('id')}, annotation {number}, by user {by}"
        return Heard(number, "accepted", True, image, "".join(filter(str.isprintable, note))[:200])
    if answer == tag.anomalous:
        return Heard(number, "not_recorded", renewed)
    return Heard(number, "taken_back" if renewed else "ignored", renewed)


def _answer(result: Any, name: str) -> str | None:
    """Return the only answer that an annotation gives to a question."""
    for item in result if isinstance(result, list) else []:
        if isinstance(item, dict) and item.get("from_name") == name and isinstance(item.get("value"), dict):
            choices = item["value"].get("choices")
            if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], str):
                return choices[0]
    return None


def _listed(event: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects of a field, which is one or a list of them."""
    if name not in event:
        raise EventError(f"{name!r} is missing: let the webhook send its payload")
    value = event[name]
    return [_object(one, name) for one in (value if isinstance(value, list) else [value])]


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EventError(f"{name!r} is no JSON object")
    return value


def _id(annotation: dict[str, Any]) -> int:
    number = annotation.get("id")
    if not isinstance(number, int) or not 0 <= number < MOST_ID:
        raise EventError("an annotation has no id")
    return number
