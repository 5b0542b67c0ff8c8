"""The campaign of hostile files: a gallery's files are changed at random, and everything that reads them is used.

    python -m durability.hostile --count 10000 --seed 1

Every use must end with an answer that is right, or with one line; a wrong answer is a fault unless `verify` finds the
change, or the change was made with the catalog's own note (checksums are no signatures). No use may die, hang, take a
gigabyte of memory, tell anything of files outside of the gallery, or touch one. Every fault is printed with the number
that repeats it: --only NUMBER.
"""

import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from durability import program
from durability.hostile_changes import CHANGES
from durability.hostile_galleries import KINDS, answers, made
from durability.hostile_uses import Uses, child, use


@dataclass
class Tally:
    """Counts of what happened."""

    galleries: int = 0
    right: int = 0  # uses that answered, and rightly
    refused: int = 0  # with one line
    wrong_and_found: int = 0  # wrong answers after a change that `verify` finds, or that was noted as good
    faults: int = 0
    touched: int = 0  # galleries by which a file outside of them was touched
    changes: dict[str, dict[str, int]] = field(default_factory=dict)  # kinds of changes: outcomes of uses
    uses: dict[str, dict[str, int]] = field(default_factory=dict)  # of changed galleries: outcomes
    kinds: dict[str, int] = field(default_factory=dict)  # of faults


class Campaign:
    """Changes copies of galleries of all kinds, and uses them."""

    def __init__(self, folder: Path, seed: int, say: Callable[[str], None] = print) -> None:
        """Make the galleries in `folder`."""
        self.folder, self.seed, self.say = folder, seed, say
        self.tally = Tally()
        self.wholes = [made(folder, kind) for kind in KINDS]
        self.queries = [kind.query for kind in KINDS]
        every = zip(self.wholes, KINDS, self.queries, strict=True)
        self.expected = [answers(whole / "root" / "gallery", kind, query) for whole, kind, query in every]

    def run(self, count: int, only: int | None = None) -> Tally:
        """Change and use this many galleries, or only one; return the tally."""
        for number in range(count) if only is None else [only]:
            self._one(number)
        return self.tally

    def _one(self, number: int) -> None:
        rng = random.Random(f"{self.seed}-{number}")
        which = rng.randrange(len(self.wholes))
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.wholes[which], work)
        path = work / "root" / "gallery"
        did, kinds = [], set()
        for _ in range(rng.choice([1, 1, 1, 2])):
            change = rng.choice(CHANGES)
            kinds.add(change.__name__)
            try:
                did.append(change(path, rng))
            except Exception as error:  # of a file that an earlier change has damaged
                did.append(f"{change.__name__}: {type(error).__name__}")
        before = outside_of(work)
        given = KINDS[which], self.expected[which], self.queries[which], rng
        found = child(lambda: use(path, *given), self.folder / "log")
        touched = outside_of(work) != before
        self._count(number, did, kinds, found, touched)

    def _count(self, number: int, did: list[str], kinds: set[str], found: Uses | str, touched: bool) -> None:
        tally = self.tally
        tally.galleries += 1
        faults = {"process": found} if isinstance(found, str) else dict(found.faults)
        if isinstance(found, Uses):
            tally.right += len(found.right)
            tally.refused += len(found.refused)
            if found.wrong and not found.problems and "catalog" not in kinds:
                faults["query"] = "a wrong answer that verify does not explain"
            tally.wrong_and_found += len(found.wrong)
            self._count_outcomes(kinds, found)
        if touched:
            tally.touched += 1
            faults["outside"] = "a file outside of the gallery was touched"
        for name, text in faults.items():
            tally.faults += 1
            kind = f"{name}: {text.strip().splitlines()[-1 if 'Traceback' in text else 0][:120]}"
            tally.kinds[kind] = tally.kinds.get(kind, 0) + 1
            if tally.kinds[kind] == 1:
                self.say(f"--only {number} --seed {self.seed}: {did}\n{name}: {text}\n")

    def _count_outcomes(self, kinds: set[str], found: Uses) -> None:
        names = {"right": found.right, "refused": found.refused, "wrong": found.wrong, "fault": found.faults}
        for outcome, name in ((outcome, name) for outcome, uses in names.items() for name in uses):
            for counts in (self.tally.uses, name), *((self.tally.changes, kind) for kind in kinds):
                of = counts[0].setdefault(counts[1], {})
                of[outcome] = of.get(outcome, 0) + 1


def outside_of(work: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return what identifies each file outside of the gallery, but for those of jobs."""
    found = {}
    for file in sorted(file for file in [*(work / "outside").rglob("*"), *work.glob("*"), *(work / "root").glob("*")]):
        status = file.lstat()
        data = file.read_bytes() if file.is_file() and "outside" in file.parts else b""
        if file.name not in (".spade-index", "gallery", "root", "outside"):
            found[str(file)] = (status.st_mtime_ns, status.st_ino, data)
    return found


def main() -> None:
    parser = program.options(__doc__)
    parser.add_argument("--count", type=int, default=1000, help="galleries to change and use")
    options = parser.parse_args()
    begun = time.perf_counter()
    folder = program.prepared("hostile")
    try:
        tally = Campaign(folder, options.seed).run(options.count, options.only)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    told = {"seed": options.seed, **asdict(tally), "seconds": round(time.perf_counter() - begun)}
    print(json.dumps(told, indent=1))
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    raise SystemExit(bool(tally.faults))


if __name__ == "__main__":
    main()
