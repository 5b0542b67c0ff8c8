"""Read the events that Label Studio posts: what each annotation says about its image."""

from dataclasses import dataclass
from typing import Any, Literal

from .config import ConfigError, Controls, controls_of
from .drawn import Drawn, drawn

MOST_ID = 1 << 63
CREATED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED")
UPDATED = "ANNOTATION_UPDATED"
DELETED = "ANNOTATIONS_DELETED"

Outcome = Literal["accepted", "taken_back", "ignored"]


class EventError(ValueError):
    """An event that cannot be read, in one line."""


@dataclass(frozen=True)
class Heard:
    """What an event tells of one annotation.

    accepted: it says "Normal" or "Anomalous", or has regions: what becomes of that is decided when it is looked at
    taken_back: it says nothing any longer, so what it said before is undone
    ignored: it says neither
    """

    id: int
    outcome: Outcome
    changes: bool  # whether there is something to do, or may be
    image: str | None = None  # that it tells of, as its task names it; None: it tells of none
    is_normal: bool = False
    drawn: tuple[Drawn, ...] = ()  # regions of a defective image
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
    result = None if annotation.get("was_cancelled") else annotation.get("result")
    image = _object(task.get("data"), "task.data").get(controls.key)
    is_normal, is_defective, found = _said(result, controls)
    if (is_normal or is_defective) and isinstance(image, str):
        by = annotation.get("updated_by") or annotation.get("completed_by")
        note = f"Label Studio: project {task.get('project')}, task {task.get('id')}, annotation {number}, by user {by}"
        shown = "".join(filter(str.isprintable, note))[:200]
        return Heard(number, "accepted", True, image, is_normal, found, shown)
    return Heard(number, "taken_back" if renewed else "ignored", renewed)


def _said(result: Any, controls: Controls) -> tuple[bool, bool, tuple[Drawn, ...]]:
    """Return whether a result calls an image normal, whether it calls it defective, and the regions of a defective one.

    The choice goes before regions, which may have been left there from the prediction. Raises EventError.
    """
    tag = controls.choice
    answer = None if tag is None else _answer(result, tag.name)
    if tag is not None and answer == tag.normal:
        return True, False, ()
    if answer is not None and (tag is None or answer != tag.anomalous):
        return False, False, ()
    try:
        found = drawn(result, controls.image)
    except ValueError as error:
        raise EventError(str(error)) from error
    return False, answer is not None or bool(found), found


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
