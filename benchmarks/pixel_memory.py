"""Peak memory of one search above its maps, measured in a process of its own.

On a CPU it is the resident size's peak, reset when the maps and, by a small search, the libraries are loaded. On a GPU
it is what torch allocates.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from spade_index.benchmarks.pixel_checks import small_search
from spade_index.benchmarks.pixel_peers import CONTENDERS, Contender, Search


def peak_memory(contender: Contender, search: Search) -> float | None:
    """Megabytes of one call; None where they cannot be measured. What a contender wants prepared is not counted."""
    with tempfile.TemporaryDirectory(prefix="spade-index-") as folder:
        file = Path(folder) / "search.pt"
        torch.save({name: getattr(search, name) for name in ("query", "pool", "sizes", "weights", "k", "mode")}, file)
        code = "from spade_index.benchmarks.pixel_memory import main; main()"
        rows = [] if search.rows is None else search.rows.tolist()
        given = [contender.key, str(file), str(search.device), str(torch.get_num_threads()), json.dumps(rows)]
        child = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=False)
    try:
        found: float | None = json.loads(child.stdout)
    except ValueError:  # it was killed, or failed: here it ran before, so that the reason is this machine's
        return None
    return found


def main() -> None:
    """The process: load, search once, print the megabytes."""
    key, file, device, threads, rows = sys.argv[1:]
    torch.set_num_threads(int(threads))
    contender = CONTENDERS[key]
    search = Search(**torch.load(file, map_location=device, weights_only=True))
    if wanted := json.loads(rows):
        search = replace(search, rows=torch.tensor(wanted, device=device))
    print(json.dumps(_measured(contender, search)))


def _measured(contender: Contender, search: Search) -> float | None:
    small = small_search([(16, 16), (8, 8), (4, 4)], search.k, search.mode, search.device)
    contender.run(small, contender.prepare(small))
    given = contender.prepare(search)
    if search.device.type == "cuda":
        if contender.key.startswith("faiss"):  # it allocates by itself
            return None
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        contender.run(search, given)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now the present size
        before = _resident_peak()
        contender.run(search, given)
        return (_resident_peak() - before) / 1e6
    except OSError:  # no Linux, or not allowed
        return None


def _resident_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
