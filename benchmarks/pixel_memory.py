"""Peak memory of one search above its maps, in a process of its own.

On a CPU it is the peak of the resident size, reset when maps and libraries are loaded; on a GPU what torch allocates.
"""

import tempfile
from dataclasses import fields
from pathlib import Path

import torch

from spade_index.benchmarks.harness import Figures
from spade_index.benchmarks.pixel_checks import small_search
from spade_index.benchmarks.pixel_peers import CONTENDERS, Contender, Search
from spade_index.benchmarks.processes import Failed, in_own_process, memory_status


def peak_memory(contender: Contender, search: Search) -> float | None:
    """Return the peak MB of one call, without what is prepared; None where it cannot be measured."""
    with tempfile.TemporaryDirectory(prefix="spade-index-") as folder:
        file = Path(folder) / "search.pt"
        torch.save({field.name: getattr(search, field.name) for field in fields(search)}, file)
        try:
            found = in_own_process(peak_of_file, contender.key, str(file), str(search.device), torch.get_num_threads())
        except Failed:  # the contender ran before, so the reason is this machine's
            return None
    peak: float | None = found["search_mb"]
    return peak


def peak_of_file(key: str, file: str, device: str, threads: int) -> Figures:
    """Run one search in this process; return its peak in MB as `search_mb`."""
    torch.set_num_threads(threads)
    contender = CONTENDERS[key]
    search = Search(**torch.load(file, map_location=device, weights_only=True))
    small = small_search([(16, 16), (8, 8), (4, 4)], search.k, search.mode, search.device)
    contender.run(small, contender.prepare(small))  # loads libraries
    given = contender.prepare(search)
    if search.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        contender.run(search, given)
        # FAISS allocates by itself.
        return {"search_mb": None if key.startswith("faiss") else (torch.cuda.max_memory_allocated() - before) / 1e6}
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present size
    except OSError:  # not allowed
        return {"search_mb": None}
    before = memory_status("VmHWM")
    contender.run(search, given)
    return {"search_mb": (memory_status("VmHWM") - before) / 1e6}
