"""Does adding images scale with the workers of a cluster, and is anything lost where they are killed?

The backbone waits as a GPU's would, so that few cores can show it; a real one computes, on a core for each worker. A
gallery whose bits differ has no figures.

python benchmarks/cluster_ingest.py --real 400 --kills 50 --driver-kills 10 \\
    --json benchmarks/results/cluster_ingest.json
"""

import random
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import psutil

from spade_index.benchmarks.cluster_builds import Task, counted, lost_and_different, rows_of
from spade_index.benchmarks.harness import Figures, WrongResult, environment, measured, write_json
from spade_index.benchmarks.photographs import make_photographs
from spade_index.benchmarks.processes import Failed
from spade_index.benchmarks.waiting import waiting_backbone
from spade_index.cluster.connection import connected
from spade_index.features.backbone import load_backbone

COLUMNS = ("workers", "rate", "share_of_linear", "start_s", "first_s", "bytes_per_image")
REAL, EDGE = "efficientnet-lite0", 224
EVERY = 2.0  # seconds from one kill to the next, on average


def scaling(task: Task, images: int, edge: int, counts: list[int], work: Path) -> list[Figures]:
    """Build, of so many images of `edge` pixels besides those to warm up, by one process and by each number of workers.

    Raises WrongResult if the galleries differ.
    """
    make_photographs(task.images, images + task.warm, edge)
    found: list[Figures] = [{"workers": 0, **task.build(work / "here")}]
    whole = rows_of(work / "here")
    for count in counts:
        started = time.perf_counter()
        with connected("local", cores=count) as ray, counted(task.travelled, ray.cloudpickle.dumps):
            connecting = time.perf_counter() - started
            figures = task.build(work / str(count), "local", count)
        if lost_and_different(work / str(count), whole) != (0, 0):
            raise WrongResult(f"{count} workers: the gallery differs from that of one process")
        figures["start_s"] += connecting
        found.append({"workers": count, **figures})
    base = found[1]["rate"] / counts[0]
    for row in found[1:]:
        row["share_of_linear"] = row["rate"] / (row["workers"] * base)
    return found


def campaign(task: Task, kills: list[str], workers: int, work: Path) -> Figures:
    """Kill a `worker` or the `driver`, as `kills` says, at random moments of builds, and carry on until each is whole.

    Raises Failed if a build fails that nobody disturbed.
    """
    replace(task, load=partial(waiting_backbone, 0)).build(work / "whole")
    whole, chance, left, context = rows_of(work / "whole"), random.Random(0), kills[:], get_context("spawn")
    chance.shuffle(left)
    figures: Figures = dict.fromkeys(("galleries", "runs", "images", "lost", "different"), 0)
    with connected("local", cores=workers) as ray:
        address = ray.get_runtime_context().gcs_address
        while left:
            gallery, done = work / f"killed-{figures['galleries']}", False
            while not done:
                before = len(left)
                process = context.Process(target=task.build, args=(gallery, address, workers))
                process.start()
                disturb(process, left, chance)
                figures["runs"] += 1
                done = process.exitcode == 0
                if not done and before == len(left):
                    raise Failed(f"a build ended with status {process.exitcode}, and nothing was killed")
            lost, different = lost_and_different(gallery, whole)
            for name, value in (("galleries", 1), ("images", len(whole)), ("lost", lost), ("different", different)):
                figures[name] += value
    return {"workers": workers, **{f"{kind}s_killed": kills.count(kind) for kind in ("worker", "driver")}, **figures}


def disturb(build: BaseProcess, kills: list[str], chance: random.Random) -> None:
    """Take from the end of `kills` who is killed next, until the build has ended."""
    while build.is_alive():
        build.join(chance.uniform(0, 2 * EVERY))
        workers = [process for process in psutil.Process().children(recursive=True) if _is_worker(process)]
        if kills and workers and build.is_alive():
            if kills.pop() == "driver":
                build.kill()
            else:
                chance.choice(workers).kill()


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "".join(process.cmdline()[:1]).startswith("ray::Worker")
    return False


@click.command(help=__doc__)
@click.option("--images", default=1280, show_default=True, help="Images that are timed.")
@click.option("--rows", default=10, show_default=True, help="Images of a batch and of a shard.")
@click.option("--wait", default=0.05, show_default=True, help="Seconds for each image.")
@click.option("--workers", "counts", multiple=True, type=int, default=[1, 2, 4, 8], show_default=True)
@click.option("--real", default=0, show_default=True, help=f"Images that are timed with {REAL}, by 1 and 2 workers.")
@click.option("--kills", default=0, show_default=True, help="Workers that are killed.")
@click.option("--driver-kills", default=0, show_default=True)
@click.option("--kill-images", default=2000, show_default=True, help="Images of each gallery whose builds are killed.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    images: int,
    rows: int,
    wait: float,
    counts: list[int],
    real: int,
    kills: int,
    driver_kills: int,
    kill_images: int,
    json_file: Path | None,
) -> None:
    """Measure, print tables, and write the figures."""
    figures: Figures = {**environment(), "images": images, "rows": rows, "wait_s": wait, "real_images": real}
    load = partial(waiting_backbone, wait)
    with TemporaryDirectory(prefix="spade-index-") as folder:
        work = Path(folder)
        task = Task(work / "waiting" / "images", rows, load, warm=rows * max(counts))
        figures["scaling"] = scaling(task, images, 96, list(counts), work / "waiting")
        click.echo(measured(COLUMNS, figures["scaling"]))
        write_json(json_file, figures)
        if real:
            computing = partial(load_backbone, REAL, device="cpu")
            task = Task(work / "real" / "images", rows, computing, warm=2 * rows)
            figures["real"] = scaling(task, real, EDGE, [1, 2], work / "real")
            click.echo(measured(COLUMNS, figures["real"]))
            write_json(json_file, figures)
        if killed := ["worker"] * kills + ["driver"] * driver_kills:
            task = Task(work / "killed" / "images", rows, load)
            make_photographs(task.images, kill_images, 96)
            figures["kills"] = campaign(task, killed, min(4, max(counts)), work / "killed")
            click.echo(", ".join(f"{name} {value}" for name, value in figures["kills"].items()))
            write_json(json_file, figures)


if __name__ == "__main__":
    main()
