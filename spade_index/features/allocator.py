"""How much freed memory the process keeps for its next allocations, and how much a batch must be able to map.

The feature maps of a batch have 10 to 50 MB each, and live for one operation. By default, glibc gives them back to the
system one by one, which clears the pages of the next: a third of a backbone's time on a processor.
"""

import ctypes
import mmap
import os
from functools import cache

# Options of mallopt(3), and the bytes that they are set to.
KEPT = {
    -3: 64 << 20,  # M_MMAP_THRESHOLD: larger allocations are given back at once
    -1: 128 << 20,  # M_TRIM_THRESHOLD: free memory at the end of a heap that is kept
    -2: 64 << 20,  # M_TOP_PAD: from this on, also whole heaps of other threads are kept
}

SPARE = 64 << 20  # bytes of address space without which no batch begins


@cache
def keep_freed_memory() -> None:
    """Let glibc keep some 100 to 200 MB of freed memory, unless the environment says how much.

    It says so by `MALLOC_*_` or `GLIBC_TUNABLES`. Other allocators and other C libraries are left alone.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: on Windows
        return
    for option, size in KEPT.items():
        mallopt(option, size)


def require_memory() -> None:
    """Raise OSError unless some memory can be mapped: where oneDNN or OpenMP gets none, they may end the process.

    It sees the limits of the address space (`ulimit -v`), not that of a container.
    """
    mmap.mmap(-1, SPARE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
