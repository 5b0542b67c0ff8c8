"""FAISS over pooled descriptors: proposes candidates; the gallery re-ranks them exactly."""

import errno
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from .catalog_check import REMEDY
from .errors import GalleryDamaged, InputError

STORAGES = ("flat", "fp16", "sq8", "pq")
EXACT_LIMIT = 20_000  # images up to which a flat scan is as fast as inverted lists
TRAINING_PER_LIST = 64  # descriptors per inverted list that k-means sees, if memory allows
LEAST_PER_LIST = 39  # FAISS warns of fewer
MEMORY = 4 << 30  # bytes that building may take
PQ_DIMENSIONS = 8  # that one byte of a product quantizer's code stands for
RECALL_TARGET = 0.99
RECALL_AT = 50
RECALL_QUERIES = 256
MOST_CANDIDATES = {"flat": 2, "fp16": 2, "sq8": 4, "pq": 20}  # times RECALL_AT
# FAISS expands |x - y|^2 for batches of 20 and more, and small distances cancel; below that it takes differences.
BATCH = 16
COMPARED = 8192  # descriptors compared at a time with the queries of the recall

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]  # keys int64 [n], descriptors float32 [n, D]
Say = Callable[[str], None]


@dataclass(frozen=True)
class IndexSettings:
    """How an index is to be built."""

    storage: str = "flat"  # of descriptors in inverted lists: float32, float16, 8 bits a value, product quantizer
    recall: float = RECALL_TARGET  # of the RECALL_AT nearest, that probes and candidates are chosen for
    memory: int = MEMORY  # bytes that building may take

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise InputError(f"the index storage must be one of {', '.join(STORAGES)}, not {self.storage!r}")
        if not 0 < self.recall <= 1:
            raise InputError(f"the recall to reach must be in (0, 1], not {self.recall}")


@dataclass(frozen=True)
class IndexDescription:
    """What was built, and how well it finds."""

    kind: str  # "flat" (exact) or "ivf"
    images: int
    nlist: int = 0
    nprobe: int = 0
    recall: float = 1.0  # measured on images of its own, of the RECALL_AT nearest after re-ranking
    storage: str = "flat"
    candidates: int = RECALL_AT  # proposed for that
    target: float = RECALL_TARGET
    memory: int = MEMORY  # bytes that building was allowed

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "IndexDescription":
        """What `to_json` wrote. Raises GalleryDamaged."""
        try:
            description = cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise GalleryDamaged(f"the index's description cannot be read ({error}); {REMEDY}") from error
        if description.kind not in ("flat", "ivf") or description.storage not in STORAGES:
            raise GalleryDamaged(f"the index's description is not one of an index; {REMEDY}")
        return description

    def settings(self) -> IndexSettings:
        """What to build the next one with."""
        return IndexSettings(self.storage, self.target, self.memory)

    def count(self, k: int) -> int:
        """How many candidates to ask for to find the k nearest; not fewer than the recall was measured with.

        Few neighbours need no fewer: storage that is not exact may rank the nearest anywhere among them.
        """
        if self.exact:
            return k
        return math.ceil(self.candidates * max(1, k / RECALL_AT))

    @property
    def exact(self) -> bool:
        """Whether the distances of what it finds are the descriptors'."""
        return self.kind == "flat" or self.storage == "flat"

    def __str__(self) -> str:
        if self.kind == "flat":
            return f"flat index of {self.images:,} images, exact"
        return (
            f"{self.kind} index of {self.images:,} images, {self.storage}, nlist {self.nlist}, nprobe {self.nprobe}, "
            f"{self.candidates} candidates: recall@{RECALL_AT} {self.recall:.4f}"
        )


class Index:
    """A FAISS index of one snapshot, ids being image keys. Inverted lists stay in their file, mapped into memory."""

    def __init__(self, path: Path, description: IndexDescription) -> None:
        """Raises GalleryDamaged if the file cannot be read."""
        try:
            flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE  # whose table may be larger than the lists
            self._index = faiss.read_index(str(path), flags if description.kind == "ivf" else 0)
        except (RuntimeError, MemoryError) as error:  # the latter of sizes that are damaged
            raise GalleryDamaged(f"{path}: damaged index: rebuild it with `spade-index index GALLERY`") from error
        self.description = description

    def search(self, queries: np.ndarray, count: int, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest `count` to queries float32 [B, D], leaving out keys `without` int64 [m].

        Returns squared distances float32 [B, count], as exact as the storage, and keys int64 [B, count], -1 where
        there are no more.
        """
        try:
            starts = range(0, len(queries), BATCH)
            found = [self._search(queries[start : start + BATCH], count, without) for start in starts]
        except (AssertionError, RuntimeError) as error:  # so FAISS says that its numbers do not go together
            raise GalleryDamaged("the index is damaged: rebuild it with `spade-index index GALLERY`") from error
        return np.concatenate([d for d, _ in found]), np.concatenate([k for _, k in found])

    def _search(self, queries: np.ndarray, count: int, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = min(count, self.description.images)
        distances, keys = self._index.search(queries, count, params=_parameters(self.description, without))
        if self.description.kind == "ivf" and (keys < 0).any():  # the probed lists hold too few: probe all
            every = replace(self.description, nprobe=self.description.nlist)
            distances, keys = self._index.search(queries, count, params=_parameters(every, without))
        return distances, keys


def scan(queries: np.ndarray, keys: np.ndarray, block: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact search of a block float32 [n, D] with keys int64 [n]: distances and keys, as `Index.search`."""
    count = min(count, len(keys))
    found = [
        faiss.knn(queries[start : start + BATCH], block, count)  # squared L2
        for start in range(0, len(queries), BATCH)
    ]
    return np.concatenate([d for d, _ in found]), keys[np.concatenate([i for _, i in found])]


def build_index(
    path: Path,
    blocks: Callable[[], Blocks],
    images: int,
    dim: int,
    settings: IndexSettings | None = None,
    say: Say = lambda line: None,
) -> IndexDescription:
    """Build and write the index of all descriptors that `blocks` yields (it is called several times).

    Exact up to EXACT_LIMIT images, inverted lists beyond, for which probes and candidates are chosen so that the
    measured recall reaches the settings'. Descriptors are read block by block, and k-means sees a sample that fits into
    the settings' memory. `say` is told what is being done. Raises InputError if no index fits into the memory.
    """
    settings = settings or IndexSettings()
    if images <= EXACT_LIMIT:
        index: Any = faiss.IndexIDMap(faiss.IndexFlatL2(dim))
        _add(index, blocks(), images, say)
        description = IndexDescription(
            "flat", images, storage=settings.storage, target=settings.recall, memory=settings.memory
        )
    else:
        index, description = _inverted_lists(blocks, images, dim, settings, say)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS says of a full disk only that it could not write
        raise OSError(errno.EIO, f"FAISS cannot write the index ({str(error).splitlines()[-1]})", str(path)) from error
    return description


def _inverted_lists(
    blocks: Callable[[], Blocks], images: int, dim: int, settings: IndexSettings, say: Say
) -> tuple[Any, IndexDescription]:
    nlist = min(int(4 * math.sqrt(images)), images // LEAST_PER_LIST)
    index = _empty(dim, nlist, settings.storage)
    left = settings.memory - images * (index.code_size + 8) - 4 * dim * nlist
    fits = left // (2 * 4 * dim)  # FAISS copies the sample
    if fits < LEAST_PER_LIST * nlist:
        needed = settings.memory - left + LEAST_PER_LIST * nlist * 2 * 4 * dim
        raise InputError(
            f"an index of {images:,} images stored as {settings.storage} takes {needed >> 20:,} MiB to build, and "
            f"{settings.memory >> 20:,} may be used: give more, or a smaller storage ({', '.join(STORAGES)})"
        )
    sample = _sample(blocks(), images, min(images, nlist * TRAINING_PER_LIST, fits))[1]
    say(f"k-means: {len(sample):,} descriptors into {nlist:,} lists")
    if hasattr(faiss, "index_cpu_to_all_gpus") and faiss.get_num_gpus():
        index.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(dim))
    index.train(sample)
    del sample
    _add(index, blocks(), images, say)
    return index, _tune(index, IndexDescription("ivf", images, nlist), settings, blocks, say)


def _empty(dim: int, nlist: int, storage: str) -> Any:
    """An untrained index; codes are of what is left when a list's centre is taken away."""
    coarse = faiss.IndexFlatL2(dim)
    if storage == "flat":
        return faiss.IndexIVFFlat(coarse, dim, nlist)
    if storage == "pq":
        codes = max(m for m in range(1, max(1, dim // PQ_DIMENSIONS) + 1) if dim % m == 0)
        index = faiss.IndexIVFPQ(coarse, dim, nlist, codes, 8)
        index.use_precomputed_table = -1
        return index
    kind = faiss.ScalarQuantizer.QT_fp16 if storage == "fp16" else faiss.ScalarQuantizer.QT_8bit
    return faiss.IndexIVFScalarQuantizer(coarse, dim, nlist, kind)


def _add(index: Any, blocks: Blocks, images: int, say: Say) -> None:
    done = 0
    for keys, descriptors in blocks:
        index.add_with_ids(np.ascontiguousarray(descriptors), keys)
        if done * 10 // images < (done + len(keys)) * 10 // images:
            say(f"{done + len(keys):,} of {images:,} descriptors in lists")
        done += len(keys)


def _tune(
    index: Any, description: IndexDescription, settings: IndexSettings, blocks: Callable[[], Blocks], say: Say
) -> IndexDescription:
    """The fewest probes, and then the fewest candidates, with which the recall is reached.

    Queries are some of the gallery's own images, each of which is left out of what it finds. If the recall cannot be
    reached, all lists are probed, and the recall says so.
    """
    say("recall: the exact neighbours of some images")
    keys, queries = _sample(blocks(), description.images, RECALL_QUERIES)
    exact = exact_neighbours(keys, queries, blocks(), RECALL_AT)
    most = min(MOST_CANDIDATES[settings.storage] * RECALL_AT, description.images - 1)

    def recalls(nprobe: int) -> np.ndarray:
        """The recall [most] with 1, 2, .. candidates."""
        index.nprobe = nprobe
        found = _others(index.search(queries, most + 1)[1], keys)
        hits = np.stack([np.isin(row, of_query) for row, of_query in zip(found, exact, strict=True)])
        return hits.cumsum(1).mean(0) / exact.shape[1]

    few, enough = 0, 1
    while recalls(enough)[-1] < settings.recall and enough < description.nlist:
        few, enough = enough, min(2 * enough, description.nlist)
    while enough - few > max(1, enough // 16):
        middle = (few + enough) // 2
        few, enough = (middle, enough) if recalls(middle)[-1] < settings.recall else (few, middle)
    # A little more is probed than needed, so that fewer candidates do.
    enough = min(math.ceil(1.25 * enough), description.nlist)
    reached = recalls(enough)
    least = min(RECALL_AT, most)
    sufficient = np.flatnonzero(reached[least - 1 :] >= settings.recall)
    candidates = least + int(sufficient[0]) if len(sufficient) else most
    found = replace(
        description,
        nprobe=enough,
        candidates=candidates,
        recall=float(reached[candidates - 1]),
        storage=settings.storage,
        target=settings.recall,
        memory=settings.memory,
    )
    say(str(found))
    return found


def exact_neighbours(keys: np.ndarray, queries: np.ndarray, blocks: Blocks, count: int) -> np.ndarray:
    """Keys of the nearest `count` of each query float32 [Q, D] but itself, by comparing all: int64 [Q, count]."""
    distances: np.ndarray = np.empty((len(queries), 0), np.float32)
    nearest: np.ndarray = np.empty((len(queries), 0), np.int64)
    for block_keys, descriptors in _together(blocks, COMPARED):
        d, place = faiss.knn(queries, descriptors, min(count + 1, len(descriptors)))
        distances, nearest = np.hstack([distances, d]), np.hstack([nearest, block_keys[place]])
        order = distances.argsort(1, kind="stable")[:, : count + 1]
        distances, nearest = (np.take_along_axis(values, order, 1) for values in (distances, nearest))
    return _others(nearest, keys)


def _others(found: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """What each query found [Q, n + 1] without itself, or without the last: [Q, n]."""
    own = found == keys[:, None]
    own[~own.any(1), -1] = True
    return found[~own].reshape(len(found), -1)


def _together(blocks: Blocks, size: int) -> Blocks:
    """Blocks in lots of about `size`."""
    lot: list[tuple[np.ndarray, np.ndarray]] = []
    for block in blocks:
        lot.append(block)
        if sum(len(keys) for keys, _ in lot) >= size:
            yield _joined(lot)
            lot = []
    if lot:
        yield _joined(lot)


def _joined(lot: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([keys for keys, _ in lot]), np.concatenate([descriptors for _, descriptors in lot])


def _sample(blocks: Blocks, images: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced images, about `wanted` and no more: keys int64 [n] and descriptors float32 [n, D]."""
    step = math.ceil(images / wanted)
    sampled = np.empty(math.ceil(images / step), np.int64)
    sample, seen, filled = np.empty((0, 0), np.float32), 0, 0
    for keys, descriptors in blocks:
        if not filled:
            sample = np.empty((len(sampled), descriptors.shape[1]), np.float32)
        some = keys[-seen % step :: step]
        here = slice(filled, filled + len(some))
        sampled[here], sample[here] = some, descriptors[-seen % step :: step]
        seen, filled = seen + len(keys), here.stop
    return sampled[:filled], sample[:filled]


def _parameters(description: IndexDescription, without: np.ndarray) -> faiss.SearchParameters | None:
    arguments: dict[str, Any] = {}
    if len(without):
        arguments["sel"] = faiss.IDSelectorNot(faiss.IDSelectorBatch(without))
    if description.kind == "ivf":
        arguments["nprobe"] = description.nprobe
        return faiss.SearchParametersIVF(**arguments)
    return faiss.SearchParameters(**arguments) if arguments else None
