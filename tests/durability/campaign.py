"""The crash campaign: operations on galleries are killed, their writes fail, and bits are flipped, many times.

    python -m durability.campaign --runs 500 --json benchmarks/results/crashes.json

Beside every gallery of tiny images is a model, a plain dictionary of what is committed. Every run starts a random
operation in a process of its own, interrupts it, and compares all that the gallery then holds and answers with the
model, and with features computed again. A gallery goes through LIFE runs, so that crashes follow crashes.
"""

import json
import random
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spade_index.gallery import Gallery

from durability import program
from durability.faults import FaultServer
from durability.flips import flip
from durability.kill import Killer
from durability.model import Operation, State, check_next_writer, check_state, draw, lost_images
from durability.writers import contend
from helpers.processes import answers_of

LIFE = 20  # runs of a gallery
READERS = 2  # at a time


@dataclass
class Tally:
    """Counts of what happened."""

    galleries: int = 0
    runs: int = 0  # operations in processes that were started to be killed
    kills: int = 0  # of them, killed before the end
    finished: int = 0  # of them, done before the signal, or left to finish
    faults: int = 0  # operations with one write that failed or was short
    faults_refused: int = 0  # of them, ended with one StorageError
    faults_survived: int = 0  # of them, succeeded
    flips: int = 0  # flipped bits of files whose contents matter
    flips_found: int = 0
    flips_dropped: int = 0  # damaged images that `verify --repair` dropped
    commits_in_turn: int = 0  # of processes that all wrote to one gallery
    writers_refused: int = 0  # because another was writing
    readers: int = 0  # opened at some snapshot, and compared after every run
    images_checked: int = 0  # compared bit by bit
    images_lost: int = 0  # committed and undamaged, and missing or with other bits
    broken_states: int = 0
    operations: dict[str, int] = field(default_factory=dict)


class Broken(Exception):
    """A gallery is in a state that it must not be in."""


class LivingGallery:
    """One gallery, its model and its readers."""

    def __init__(self, campaign: "Campaign", number: int) -> None:
        self.campaign, self.tally = campaign, campaign.tally
        self.rng = random.Random(f"{campaign.seed}-{number}")
        self.folder = campaign.folder / str(number)
        self.folder.mkdir()
        self.path = self.folder / "gallery"
        self.rows = self.rng.randint(2, 5)
        self.state, self.fresh = State({}), 0
        self.readers: list[tuple[Gallery, list[Any]]] = []
        self.steps: list[str] = []
        self.killer = Killer(self.rng, campaign.seconds)

    def run(self, kinds: list[str]) -> None:
        """Take steps, each a kill, a fault or a flip. Raises Broken at the first bad state."""
        steps: dict[str, Callable[[], None]] = {"kill": self.kill, "fault": self.fault, "flip": self.flip}
        for kind in kinds:
            self.change_readers()
            steps[kind]()

    def kill(self) -> None:
        """Run an operation and kill it, unless it finishes before."""
        operation = self.drawn()
        killed = False

        def interrupt() -> list[State]:
            nonlocal killed
            killed, when = self.killer.run(operation, self.path)
            self.steps[-1] += f": {when}"
            states = operation.states(self.state)
            return states if killed else states[-1:]

        self.interrupted(operation, interrupt)
        self.tally.runs += 1
        self.tally.kills += killed
        self.tally.finished += not killed

    def fault(self) -> None:
        """Run an operation in which a write fails."""
        operation = self.drawn()
        outcome = None

        def interrupt() -> list[State]:
            nonlocal outcome
            outcome = self.campaign.faults.run(operation, self.path, self.rng)
            self.steps[-1] += f": {outcome}"
            states = operation.states(self.state)
            return states[-1:] if outcome.well else states

        self.interrupted(operation, interrupt)
        assert outcome is not None
        self.tally.faults += outcome.hit
        self.tally.faults_survived += outcome.hit and outcome.well
        self.tally.faults_refused += outcome.hit and not outcome.well

    def flip(self) -> None:
        """Flip a bit in a copy."""
        if not self.state.live:
            return self.kill()
        copy = self.copied()
        self.steps.append("flip")
        try:
            flipped = flip(copy, self.state, self.rng, self.steps)
        except Exception as error:
            raise self.broken([self.state], copy) from error
        self.tally.flips += 1
        self.tally.flips_found += flipped.found
        self.tally.flips_dropped += flipped.dropped
        self.tally.images_lost += flipped.lost
        if not flipped.found or flipped.lost:
            raise self.broken([self.state], copy)
        return None

    def drawn(self) -> Operation:
        """Draw a random operation."""
        operation = draw(self.rng, self.state, self.rows, self.fresh)
        self.fresh += len(operation.images)
        self.steps.append(str(operation))
        self.tally.operations[operation.kind] = self.tally.operations.get(operation.kind, 0) + 1
        return operation

    def interrupted(self, operation: Operation, interrupt: Callable[[], list[State]]) -> None:
        """Interrupt an operation, check the gallery and its readers, and go on with the state it left."""
        before = self.state
        states, checked = operation.states(before), self.path
        never_there = not before.live and not (self.path / "catalog.sqlite").exists()
        try:
            states = interrupt()
            self.state = check_state(self.path, states, may_lack=never_there)
            for reader, answers in self.readers:
                assert answers_of(reader) == answers, "a reader's answers have changed"
            checked = self.copied()
            self.check_copy(checked, operation, before)
        except Exception as error:
            raise self.broken(states, checked) from error
        self.tally.images_checked += len(self.state.live)

    def check_copy(self, copy: Path, operation: Operation, before: State) -> None:
        """Check on a copy that the next writer leaves no unused file, and that the same operation completes."""
        if (copy / "catalog.sqlite").exists():
            check_next_writer(copy)
        if not operation.is_done(self.state, before):
            operation.perform(copy)
        check_state(copy, operation.states(before)[-1:], may_lack=False)
        check_next_writer(copy)

    def copied(self) -> Path:
        """Copy the gallery, without readers."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if self.path.exists():
            shutil.copytree(self.path, copy)
        return copy

    def change_readers(self) -> None:
        """Open a reader, or close one."""
        if self.state.live and len(self.readers) < READERS and self.rng.random() < 0.3:
            reader = Gallery(self.path)
            self.readers.append((reader, answers_of(reader)))
            self.tally.readers += 1
        elif self.readers and self.rng.random() < 0.3:
            self.readers.pop(0)[0].close()

    def broken(self, states: list[State], path: Path) -> Broken:
        """Count a bad state, and keep the gallery for inspection."""
        self.tally.broken_states += 1
        self.tally.images_lost += lost_images(path, states) if path == self.path else 0
        kept = self.folder / "broken"
        if path.exists():
            shutil.copytree(path, kept, dirs_exist_ok=True)
        return Broken(f"broken, kept in {kept}; shards of {self.rows}, steps:\n  " + "\n  ".join(self.steps))

    def close(self, keep: bool) -> None:
        """Close the readers and delete the gallery."""
        for reader, _ in self.readers:
            reader.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


class Campaign:
    """Runs galleries one after the other, and tallies them."""

    def __init__(self, seed: int, folder: Path, say: Callable[[str], None] = print) -> None:
        """Create galleries in `folder`, where broken ones are kept."""
        self.seed, self.folder, self.say = seed, folder, say
        self.tally = Tally()
        self.seconds: dict[str, list[float]] = {}  # durations of each kind of operation
        self.faults = FaultServer()

    def run(self, runs: int, faults: int, flips: int, writers: int = 0, only: int | None = None) -> Tally:
        """Take steps of each kind, in random order, and let processes write at the same time; return the tally.

        A broken gallery is printed and kept, and the next one begins.
        """
        steps = ["kill"] * runs + ["fault"] * faults + ["flip"] * flips
        random.Random(self.seed).shuffle(steps)
        if faults:
            self.faults.start()
        try:
            for number, start in enumerate(range(0, len(steps), LIFE)):
                if only in (None, number):
                    self.live(number, steps[start : start + LIFE])
            if writers:
                self.tally.commits_in_turn, self.tally.writers_refused = contend(self.folder / "writers", writers)
        finally:
            self.faults.close()
        return self.tally

    def live(self, number: int, steps: list[str]) -> None:
        """Take one gallery through its steps."""
        gallery = LivingGallery(self, number)
        self.tally.galleries += 1
        broken = False
        try:
            gallery.run(steps)
        except Broken as error:
            broken = True
            self.say("".join(traceback.format_exception(error)))
            self.say(f"to repeat: --seed {self.seed} --only {number}")
        finally:
            gallery.close(keep=broken)


def table(tally: Tally) -> str:
    """Return the tally, one line for each number."""
    return "\n".join(f"{name.replace('_', ' '):<20}{value}" for name, value in asdict(tally).items())


def main() -> None:
    parser = program.options(__doc__)
    parser.add_argument("--runs", type=int, default=500, help="operations to kill")
    parser.add_argument("--faults", type=int, help="operations with a failing write; default: half of the runs")
    parser.add_argument("--flips", type=int, help="flipped bits; default: half of the runs")
    options = parser.parse_args()
    begun = time.perf_counter()
    folder = program.prepared("crashes")
    campaign = Campaign(options.seed, folder)
    half = options.runs // 2
    faults, flips = (half if given is None else given for given in (options.faults, options.flips))
    tally = campaign.run(options.runs, faults, flips, writers=6, only=options.only)
    shutil.rmtree(folder / "writers", ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    print(table(tally))
    if options.json:
        from spade_index.benchmarks.harness import environment

        result = {"seed": options.seed, **asdict(tally), "seconds": round(time.perf_counter() - begun)}
        options.json.write_text(json.dumps({**result, "environment": environment()}, indent=1) + "\n")
    raise SystemExit(bool(tally.broken_states or tally.images_lost))


if __name__ == "__main__":
    main()
