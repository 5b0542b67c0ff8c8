"""Check every backend on this GPU against the float64 reference on the CPU, and against exact distances on the GPU.

Three things must hold of an answer: its distances are those of its matches; its matches are as near as the nearest,
except for the rounding of the type in which products are computed; and matches are in range, distinct and ascending.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spade_index import kernels
from spade_index.benchmarks import pixel_checks, pixel_peers
from spade_index.benchmarks.gpu.peers import FUSED, backend_module
from spade_index.benchmarks.gpu.runner import Missing, Row, Wrong
from spade_index.benchmarks.gpu.timing import poisoned, synchronize
from spade_index.benchmarks.gpu.workload import Found, Inputs, Scale, fuse, fused_maps, workload
from spade_index.benchmarks.harness import one_line
from spade_index.kernels.window import cells_at_corner

BACKENDS: dict[str, dict[str, Any]] = {
    "triton": {"backend": "triton"},
    "cupy": {"backend": "cupy"},
    "torch": {"backend": "torch", "precision": "float32"},
    "torch-fast": {"backend": "torch", "precision": "fast"},
}
EXACT = (1e-4, 2e-6)  # allowed error, relative to a distance and to the scale: the largest squared norms
ROUNDED = {torch.float32: 2e-6, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}  # of the scale, by the maps' type
SIZES = (
    *([(8, 8), (4, 4), (2, 2)], [(7, 11), (5, 5), (3, 2)], [(13, 9)], [(6, 4), (3, 2)], [(5, 5), (5, 5)], [(1, 1)]),
    *([(8, 12), (4, 6), (4, 3), (2, 1), (1, 1)], [(13, 11), (11, 7), (5, 5), (3, 2), (1, 1)], [(9, 9), (3, 3)]),
)
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda f: f,
    "constant": lambda f: f[:1, :1].expand_as(f).clone(),
    "duplicated": lambda f: f[:, torch.arange(f.shape[1]) // 3],
    "zero": lambda f: 0 * f,
    "huge": lambda f: 1e4 * f,
    "offset": lambda f: f + 300,
    "near-duplicate": lambda f: f[:1, :1] + 1e-3 * f,
}


def search(name: str, arguments: dict[str, Any], device: torch.device) -> Found:
    """Return a backend's answer to the arguments of `nearest_pixels`, from poisoned memory, on the CPU."""
    backend_module(BACKENDS[name]["backend"])  # raises Missing
    there = {key: [t.to(device) for t in arguments[key]] for key in ("query", "pool")}
    with poisoned(device):
        distances, matches = kernels.nearest_pixels(**(arguments | there), **BACKENDS[name])
    return distances.cpu(), matches.cpu()


def check_random(name: str, scale: Scale, part: int, device: torch.device, seconds: float) -> Row:
    """Compare searches of awkward pyramids and features with the reference."""
    until, errors, worst, count = time.monotonic() + seconds, [], 0.0, 0
    for number in range(scale.random_cases):
        if time.monotonic() > until:
            break
        arguments, described = draw(random.Random(1000 * part + number))
        count += 1
        try:
            worst = max(worst, _compare_with_reference(name, arguments, device))
        except Missing:
            raise
        except Exception as error:
            errors.append(f"{described}: {one_line(error)}")
            synchronize(device)  # raises if the GPU's context is lost
    if errors:
        raise Wrong(f"{len(errors)} of {count} searches: " + " | ".join(errors[:3]))
    return {"searches": count, "worst": worst}


def draw(choice: random.Random) -> tuple[dict[str, Any], str]:
    """Draw the arguments of a search, and describe them."""
    sizes, mode, kind = choice.choice(SIZES), choice.choice(kernels.MODES), choice.choice(list(KINDS))
    dtype = choice.choice([torch.float16, torch.float32])
    batch, slots, neighbours = choice.randint(1, 3), choice.randint(1, 4), choice.randint(1, 5)
    channels = [choice.choice([1, 3, 8, 17]) for _ in sizes]
    generator = torch.Generator().manual_seed(choice.randrange(1 << 30))
    query, pool = (
        [
            KINDS[kind](torch.randn(n, h * w, c, generator=generator)).clamp(-6e4, 6e4)
            for (h, w), c in zip(sizes, channels, strict=True)
        ]
        for n in (batch, slots)
    )
    if choice.random() < 0.5:  # the gallery has a near-duplicate of a query
        for q, g in zip(query, pool, strict=True):
            g[0] = q[0]
    smallest = min(h * w for h, w in sizes) if mode == "per-level" else sizes[0][0] * sizes[0][1]
    window = choice.choice([None, None, 0, 1, 3])
    if window is not None:
        smallest = min(cells_at_corner(size, window) for size in (sizes if mode == "per-level" else sizes[:1]))
    arguments: dict[str, Any] = {"query": query, "pool": [level.to(dtype) for level in pool], "sizes": sizes}
    arguments |= {
        "pages": torch.randint(slots, (batch, neighbours), generator=generator), "mode": mode, "window": window,
        "k": choice.randint(1, min(10, neighbours * smallest)),
        "weights": choice.choice([None, [0.5, 2.0, 0.0, 1.5, 1.0][: len(sizes)]]),
    }  # fmt: skip
    return (
        arguments,
        f"{mode}, {kind}, window {window}, sizes {sizes}, channels {channels}, {dtype}, k {arguments['k']}",
    )


def _compare_with_reference(name: str, arguments: dict[str, Any], device: torch.device) -> float:
    """Return how far off a distance is, as a share of the allowed error. Raises Wrong."""
    expected = kernels.nearest_pixels(**arguments, backend="reference")
    distances, matches = search(name, arguments, device)
    query, pool, mode = arguments["query"], arguments["pool"], arguments["mode"]
    weights = arguments["weights"] or [1.0] * len(query)
    largest = [
        max(float(level.float().square().sum(-1).max()) for level in pair) for pair in zip(query, pool, strict=True)
    ]
    scale = sum(w * n for w, n in zip(weights, largest, strict=True))
    rounded = {"torch": torch.float32, "torch-fast": torch.bfloat16}.get(name, pool[0].dtype)
    _require_order((distances, matches), expected, arguments["pages"].shape[1] * query[0].shape[1])

    def error(found: Tensor, right: Tensor, share: float) -> float:
        return float(((found - right).abs() / (EXACT[0] * right + share * scale + 1e-30)).max())

    worst = error(distances, expected[0], ROUNDED[rounded])
    if not worst <= 1:
        raise Wrong(f"distances are {worst:.3g} times as far off as is allowed")
    every = torch.arange(query[0].shape[1])
    for number, page in enumerate(arguments["pages"]):
        one = [level[number : number + 1].float() for level in query], [level[page] for level in pool]
        exact = pixel_checks.Oracle(pixel_peers.Search(*one, arguments["sizes"], weights, arguments["k"], mode), every)
        there = exact.pairs.gather(1, matches[number])
        if mode != "per-level" and not error(distances[number], there, EXACT[1]) <= 1:
            raise Wrong("distances are not those of the matches")
        if arguments["window"] is None:  # the oracle knows none; the reference's distances are compared above
            worst = max(worst, error(there.sort(1).values, exact.best, ROUNDED[rounded]))
    if not worst <= 1:
        raise Wrong(f"matches are {worst:.3g} times as far off as is allowed")
    return worst


def _require_order(found: Found, expected: Found, gallery: int) -> None:
    distances, matches = found
    if distances.shape != expected[0].shape or matches.shape != expected[1].shape:
        raise Wrong(f"found {list(distances.shape)} and {list(matches.shape)}, not {list(expected[0].shape)}")
    if matches.numel() and not 0 <= int(matches.min()) <= int(matches.max()) < gallery:
        raise Wrong(f"matches {int(matches.min())}..{int(matches.max())} of {gallery} pixels")
    if not bool((distances[..., 1:] >= distances[..., :-1]).all()):
        raise Wrong("distances are not in ascending order, or not numbers")
    if bool((matches.sort(-1).values.diff(dim=-1) == 0).any()):
        raise Wrong("a gallery pixel was found twice")


def check_shaped(name: str, scale: Scale, dtype: torch.dtype, k: int, mode: str, device: torch.device) -> Row:
    """Compare all pixels of the real shapes with exact distances on the device: nearest by far, and close ties."""
    work = workload(scale, device)
    k = min(k, scale.few * (scale.pixels if mode != "per-level" else min(h * w for h, w in scale.sizes)))
    (one,) = work.batches(scale.few, 1, 1, seed=k)
    row: Row = {}
    for kind in ("planted", "smooth"):
        query, pool = list(one.query), [level[one.pages[0]].to(dtype) for level in work.pool]
        if kind == "smooth":  # neighbouring pixels alike, positive, as activations are
            query = [_smooth(level, size) for level, size in zip(query, scale.sizes, strict=True)]
            pool = [_smooth(level, size).to(dtype) for level, size in zip(pool, scale.sizes, strict=True)]
        arguments = {"query": query, "pool": pool, "pages": torch.arange(scale.few)[None], "k": k, "mode": mode}
        distances, matches = (found[0].to(device) for found in search(name, arguments | {"sizes": scale.sizes}, device))
        whole = pixel_peers.Search(query, pool, scale.sizes, work.options["weights"], k, mode)
        oracle = pixel_checks.Oracle(whole, torch.arange(scale.pixels, device=device))
        try:
            checked = oracle.check((distances, matches), fast=dtype != torch.float32 or name == "torch-fast")
        except pixel_checks.WrongResult as error:
            raise Wrong(f"{kind}: {error}") from error
        if mode != "per-level":  # however products round, distances are measured
            exact = oracle.pairs.gather(1, matches)
            own = (distances.double() - exact).abs() / (EXACT[0] * exact + EXACT[1] * oracle.scale[:, None])
            if not bool((own <= 1).all()):
                raise Wrong(f"{kind}: distances are {own.max():.3g} times as far from their matches' as is allowed")
        row |= {f"{kind} {key}": value for key, value in checked.items()}
    return row


def _smooth(level: Tensor, size: tuple[int, int]) -> Tensor:
    """Return positive features [n, H*W, C] that change slowly over a map."""
    image = level.float().unflatten(1, size)  # [n, H, W, C]
    for axis in (1, 2):
        image = (image + image.roll(1, axis) + image.roll(-1, axis)) / 3
    return image.flatten(1, 2).relu()


def _resident(
    name: str, scale: Scale, neighbours: int, k: int, device: torch.device, **more: Any
) -> tuple[Callable[[Inputs], Found], Inputs]:
    """Return a search of resident maps, and a batch of two for it."""
    work = workload(scale, device)
    (batch,) = work.batches(neighbours, 2, 1, seed=7)
    module = backend_module(BACKENDS[name]["backend"])
    if name in FUSED:
        maps, options = fused_maps(scale, device), work.options | more
        return (lambda one: module.nearest_pixels(one.query, maps, one.pages, k, **options)), batch
    given = {"sizes": scale.sizes} | more | BACKENDS[name]
    return (lambda one: kernels.nearest_pixels(one.query, work.pool, one.pages, k, **given)), batch


def check_repeats(name: str, scale: Scale, neighbours: int, k: int, device: torch.device) -> Row:
    """Search the same many times: the answer is the same to the bit, alone and in its batch."""
    call, batch = _resident(name, scale, neighbours, k, device)
    first = call(batch)
    for number in range(1, scale.repeats):
        for what, one, other in zip(("distances", "matches"), first, call(batch), strict=True):
            if not torch.equal(one, other):
                raise Wrong(f"run {number + 1} has other {what} at {int((one != other).sum())} places")
    alone = call(Inputs([level[-1:].contiguous() for level in batch.query], batch.pages[-1:]))
    if not torch.equal(alone[1][0], first[1][-1]) or not torch.equal(alone[0][0], first[0][-1]):
        raise Wrong("a query has another result alone than in a batch")
    return {"runs": scale.repeats}


def check_memory(name: str, scale: Scale, device: torch.device) -> Row:
    """Cut pages into parts by a small working memory, and compare with the whole."""
    neighbours = min(scale.slots, 12)
    whole, batch = _resident(name, scale, neighbours, 3, device)
    least = 1 if name in FUSED else 64 << 20  # less takes minutes of the torch backend
    parts, _ = _resident(name, scale, neighbours, 3, device, working_memory=least)
    with poisoned(device):
        expected, found = whole(batch), parts(batch)
    worst = float(((found[0] - expected[0]).abs() / (EXACT[0] * expected[0] + 1e-6)).max())
    if not worst <= 1:
        raise Wrong(f"in parts, distances are {worst:.3g} times as far off as is allowed")
    return {"worst": worst, "same_matches": float((found[1] == expected[1]).double().mean())}


def check_large(name: str, scale: Scale, device: torch.device) -> Row:
    """Search the last slots of a pool with more values than a 32-bit number counts: as in a small pool."""
    run, work = backend_module(name).nearest_pixels, workload(scale, device)
    (one,) = work.batches(3, 1, 1)
    small = fuse([level[one.pages[0]] for level in work.pool], scale.sizes)
    large = type(small).empty(scale.large_slots, scale.sizes, scale.channels, torch.float16, device)
    for there, here in zip([*large.levels, *large.norms], [*small.levels, *small.norms], strict=True):
        there[-3:] = here
    pages = torch.arange(3, device=device)[None]
    expected = run(one.query, small, pages, 2, **work.options)
    found = run(one.query, large, pages + scale.large_slots - 3, 2, **work.options)
    if not torch.equal(found[0], expected[0]) or not torch.equal(found[1], expected[1]):
        raise Wrong(f"{int((found[1] != expected[1]).sum())} matches differ")
    return {"values": large.levels[0].numel()}
