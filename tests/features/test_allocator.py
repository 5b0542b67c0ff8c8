"""Freed memory is kept for the next feature maps, unless the environment says how much."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from spade_index.features.allocator import keep_freed_memory
keep_freed_memory()
for _ in range(4):  # the first takes the memory, often some of the second, too; then it is there
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(40 << 18)  # float32: 40 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = (40 << 20) // os.sysconf("SC_PAGE_SIZE")  # of one


@pytest.mark.parametrize(
    ("environment", "is_kept"),
    [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "131072"}, False)],
    ids=["by default", "the environment's choice"],
)
def test_memory_is_used_again(environment: dict[str, str], is_kept: bool) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert (int(ran.stdout) < PAGES) == is_kept, ran.stdout
