"""A read that fails while HDF5 opens a file leaves nothing behind, in the process or at its end."""

import gc
import inspect
import subprocess
import sys
import weakref

import pytest

from spade_index.gallery.store.hdf5 import opened


class Failing:
    """A file that cannot be read."""

    size = 4096

    def read(self, out: memoryview, offset: int) -> bool:
        raise OSError(5, "no such block")


UNCAUGHT = """
from spade_index.gallery.store.hdf5 import opened
with opened(Failing()):
    pass
"""


def test_nothing_of_a_failed_read_stays_in_memory() -> None:
    file = Failing()
    with pytest.raises(OSError, match="no such block"), opened(file):
        pass
    left = weakref.ref(file)
    del file
    gc.collect()
    assert left() is None


def test_a_program_that_a_failed_read_ends_says_so() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", inspect.getsource(Failing) + UNCAUGHT], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1, ran  # a segmentation fault is -11
    assert ran.stderr.endswith("OSError: [Errno 5] no such block\n")
