"""Races of cancellation, answers and errors, with a scheduler that forces each order."""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from spade_index.gallery import Gallery
from spade_index.server import engine as engine_module
from spade_index.server.engine import Ask
from spade_index.server.galleries import Galleries
from spade_index.server.jobs import Jobs

from helpers.adding import add, new_images
from helpers.schedule import Schedule, orders
from helpers.serving import Server
from helpers.tiny import png
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"


def test_a_schedule_forces_each_order() -> None:
    for order in orders(["a", "b"], ["c"]):
        schedule, taken = Schedule(*order), []

        def run(steps: list[str], schedule: Schedule = schedule, taken: list[str] = taken) -> None:
            for step in steps:
                with schedule.step(step):
                    taken.append(step)

        threads = [threading.Thread(target=run, args=(steps,)) for steps in (["a", "b"], ["c"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert tuple(taken) == order
        assert schedule.done
        assert not schedule.skipped
    assert len(orders(["a", "b"], ["c"])) == 3


class SteppedFuture(Future):
    """An answer whose states change as a schedule says."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.set_running_or_notify_cancel = schedule.stepped("begin", super().set_running_or_notify_cancel)
        self.set_result = schedule.stepped("answer", super().set_result)  # type: ignore[method-assign]
        self.set_exception = schedule.stepped("answer", super().set_exception)  # type: ignore[method-assign]
        self.cancel = schedule.stepped("cancel", super().cancel)  # type: ignore[method-assign]


def result(server: Server, patch: pytest.MonkeyPatch) -> int:
    return 200


def backbone_error(server: Server, patch: pytest.MonkeyPatch) -> int:
    def refuses(self: Any, pixels: Any) -> None:
        raise RuntimeError("no")

    patch.setattr(type(server.watch.backbones[0]), "_come", refuses)
    return 500


def search_error(server: Server, patch: pytest.MonkeyPatch) -> int:
    def fails(*arguments: Any) -> None:
        raise OSError("no")

    patch.setattr(engine_module.Engine, "_detect", fails)
    return 500


def gallery_error(server: Server, patch: pytest.MonkeyPatch) -> int:
    def fails(*arguments: Any) -> None:
        raise OSError("no")

    patch.setattr(Galleries, "use", fails)
    return 500


def unforeseen(server: Server, patch: pytest.MonkeyPatch) -> int:
    def fails(*arguments: Any) -> None:
        raise SystemExit(1)

    patch.setattr(engine_module.Engine, "_search", fails)
    return 500


@pytest.mark.parametrize("outcome", [result, backbone_error, search_error, gallery_error, unforeseen])
@pytest.mark.parametrize("order", orders(["begin", "answer"], ["cancel"]), ids="-".join)
def test_a_client_that_goes_at_any_time_leaves_the_engine_alive(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...], outcome: Callable[..., Any]
) -> None:
    """The image beside it in the batch gets its answer; so does the next."""
    server = serve(batch_images=2)
    server.query("plain", png(1))
    schedule = Schedule(*order)
    data = png(3)
    with ThreadPoolExecutor(2) as pool, server.connect() as going, monkeypatch.context() as patch:
        with server.watch.held():  # until both wait, to be one batch
            before = pool.submit(server.http.post, QUERY, content=png(2))
            server.watch.wait_until_entered()
            answers = iter([SteppedFuture(schedule)])
            patch.setattr(
                engine_module, "Ask", lambda *arguments: Ask(*arguments, answer=next(answers, None) or Future())
            )
            going.send(going.head("POST", QUERY, Content_Length=str(len(data))) + data)
            server.wait_until_waiting(1)
            beside = pool.submit(server.http.post, QUERY, content=png(4))
            server.wait_until_waiting(2)
            expected = outcome(server, patch)
            going.close()
        assert before.result().status_code in (200, expected)
        assert beside.result().status_code == expected
        eventually(lambda: schedule.done or order[0] == "cancel")
    assert not schedule.skipped
    assert server.query("plain", png(5))["neighbours"]
    eventually(lambda: server.metric("spade_index_queue_images") == 0)
    assert server.service.engine.alive
    assert server.service.engine.worker.failures == (outcome is unforeseen)


NOBODY = "the id of no job"


class SteppedJobs:
    """Makes the states of a service's jobs change as a schedule says."""

    def __init__(self, jobs: Jobs, schedule: Schedule, patch: pytest.MonkeyPatch) -> None:
        get = jobs._queue.get
        ending = ExitStack()  # until the next job is looked for; its turn is waited for before a lock is taken

        def stepped_get(timeout: float) -> str | None:
            ending.close()
            id = get(timeout=timeout)
            with nullcontext() if id == NOBODY else schedule.step("take"):
                return id

        def ends(function: Callable[..., Any]) -> Callable[..., Any]:
            def stepped(*arguments: Any, **options: Any) -> Any:
                if threading.current_thread().name == "jobs":
                    ending.enter_context(schedule.step("end"))
                return function(*arguments, **options)

            return stepped

        patch.setattr(jobs._queue, "get", stepped_get)
        patch.setattr(Jobs, "_require_wanted", schedule.stepped("look", Jobs._require_wanted))
        for name in ("_end", "_fail", "_committed"):  # done, failed, and cancelled or stopped
            patch.setattr(Jobs, name, ends(getattr(Jobs, name)))
        jobs._queue.put(NOBODY)  # ends the call that waits already, which is no step


def told_apart(*threads: list[str]) -> list[tuple[str, ...]]:
    """Return the orders of a job that is taken, and of a cancel and a stop: beside each other, these two are alike."""
    every = orders(*threads, ["cancel"], ["stop"])
    return [order for order in every if order[0] == "take" and "stop-cancel" not in "-".join(order)]


NEVER_RUN = [("cancel", "stop", "take"), ("cancel", "take", "stop"), ("stop", "take", "cancel")]
RUNS = [(order, False) for order in NEVER_RUN + told_apart(["take", "look", "end"])]
FAILING = [(order, True) for order in told_apart(["take", "end"])]


@pytest.mark.parametrize(
    ("order", "fails"), RUNS + FAILING, ids=lambda of: "-".join(of) if isinstance(of, tuple) else str(of)
)
def test_a_job_that_was_cancelled_stays_so(
    serve: Callable[..., Server], root: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...], fails: bool
) -> None:
    """Whenever the cancel and the stop of the service come; what a kill leaves in between is tried, too."""
    server = serve()
    jobs = server.service.jobs
    schedule = Schedule(*order)
    states: list[str] = []
    killed = Path(shutil.copytree(root, root.with_name("killed")))  # to be as a kill after the cancel leaves it
    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        SteppedJobs(jobs, schedule, patch)
        if fails:
            patch.setattr(jobs.files, "images", lambda job: iter(()).throw(OSError("unreadable")))
        id = add(server, new_images(1))

        def cancel() -> None:
            with schedule.step("cancel"):
                states.append(jobs.cancel(id).state)
                shutil.copytree(root / ".spade-index", killed / ".spade-index")

        def stop() -> None:
            with schedule.step("stop"):
                jobs._stopping = True

        for done in [pool.submit(cancel), pool.submit(stop)]:
            done.result()
        jobs.stop()
        assert not schedule.skipped
    (told,) = states
    ended = json.loads((root / ".spade-index" / "jobs" / id / "job.json").read_text())["state"]
    for folder in (root, killed):
        again = serve(root=folder)
        state = again.http.get(f"/v1/jobs/{id}").json()["state"]
        with Gallery(folder / "plain") as gallery:
            there = len(gallery) - 12
        if told in ("cancelled", "running"):  # the wish was taken
            assert state == "cancelled" or (state in ("done", "failed") and folder == root and told == "running")
            assert state == "cancelled" or there == (state == "done")
        else:
            assert state == told == ended
        assert again.service.jobs.worker.alive
        again.finished(add(again, new_images(1, 500)))
        assert again.http.get(f"/v1/jobs/{id}").json()["state"] == state
