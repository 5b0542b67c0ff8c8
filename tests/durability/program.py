"""What the programs of campaigns have in common: their options, and a folder in memory."""

import argparse
import os
import tempfile
from pathlib import Path

import faiss
import torch


def options(text: str | None) -> argparse.ArgumentParser:
    """Return the parser of a campaign with this description: its seed, one gallery alone, and the tally."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="only this gallery of the campaign")
    parser.add_argument("--json", type=Path, help="where to write the tally")
    return parser


def prepared(name: str) -> Path:
    """Let libraries compute in one thread each, and return a new folder, in memory if that is possible."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
