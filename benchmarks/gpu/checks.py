"""Is every backend right on this GPU? Against the reference in float64 on the CPU, and exact distances on the GPU.

Three things must hold of an answer: its distances are those of its matches; its matches are as near as the nearest, but
for the rounding of what products are taken in; and matches are in range, distinct and in ascending order.
"""

import importlib.util
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spade_index import kernels
from spade_index.benchmarks import pixel_checks, pixel_peers
from spade_index.benchmarks.gpu import peers as gpu_peers
from spade_index.benchmarks.gpu.data import Found, Inputs, Scale, fuse, fused_maps, poisoned, workload
from spade_index.benchmarks.gpu.runner import Missing, Wrong, one_line

BACKENDS: dict[str, dict[str, Any]] = {
    "triton": {"backend": "triton"},
    "cupy": {"backend": "cupy"},
    "torch": {"backend": "torch", "precision": "float32"},
    "torch-fast": {"backend": "torch", "precision": "fast"},
}
EXACT = (1e-4, 2e-6)  # of a distance, and of the scale: the largest squared norms
ROUNDED = {torch.float32: 2e-6, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}  # of the scale, by the maps' type
CASES = Path(__file__).resolve().parents[2] / "tests" / "kernels" / "cases.py"


def search(name: str, arguments: dict[str, Any], device: torch.device) -> Found:
    """A backend's answer to the arguments of `nearest_pixels`, in poisoned memory; on the CPU."""
    gpu_peers.backend_module(BACKENDS[name]["backend"])  # raises Missing
    there = {key: [t.to(device) for t in arguments[key]] for key in ("query", "pool")}
    with poisoned(device):
        distances, matches = kernels.nearest_pixels(**(arguments | there), **BACKENDS[name])
    return distances.cpu(), matches.cpu()


def check_random(name: str, scale: Scale, part: int, device: torch.device, seconds: float) -> dict[str, Any]:
    """Awkward pyramids, against the reference."""
    until, errors, worst, count = time.monotonic() + seconds, [], 0.0, 0
    for arguments in _searches(part, scale.random_cases):
        if time.monotonic() > until:
            break
        count += 1
        try:
            worst = max(worst, _compare_with_reference(name, arguments, device))
        except Missing:
            raise
        except Exception as error:
            errors.append(f"{_described(arguments)}: {one_line(error)}")
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # raises where the GPU's context is lost
    if errors:
        raise Wrong(f"{len(errors)} of {count} searches: " + " | ".join(errors[:3]))
    return {"searches": count, "worst": worst, "with_hypothesis": cases() is not None}


def _compare_with_reference(name: str, arguments: dict[str, Any], device: torch.device) -> float:
    """How far off a distance is, as a share of what is allowed. Raises Wrong."""
    expected = kernels.nearest_pixels(**arguments, backend="reference")
    found = search(name, arguments, device)
    levels = [*arguments["query"], *arguments["pool"]]
    weights = arguments["weights"] or [1.0] * len(arguments["query"])
    scale = sum(
        w * max(float(level.float().square().sum(-1).max()) for level in pair)
        for w, *pair in zip(weights, arguments["query"], arguments["pool"], strict=True)
    )
    share = ROUNDED[arguments["pool"][0].dtype]
    if name == "torch-fast":
        share = ROUNDED[torch.bfloat16]
    elif name == "torch" or all(level.dtype == torch.float32 for level in levels):
        share = ROUNDED[torch.float32]
    _require_order(found, expected, arguments["pages"].shape[1] * arguments["query"][0].shape[1])
    loose = EXACT[0] * expected[0] + share * scale + 1e-30
    worst = float(((found[0] - expected[0]).abs() / loose).max())
    if not worst <= 1:
        raise Wrong(f"distances are {worst:.3g} times as far off as is allowed")
    at = cases()
    if at is not None:
        level = {**arguments, "query": [q.cpu() for q in arguments["query"]]}
        exact, nearest = at.distances_at(level, found[1]), at.distances_at(level, expected[1])
        further = float(((exact - nearest).abs() / (EXACT[0] * nearest + share * scale + 1e-30)).max())
        if arguments["mode"] != "per-level":
            own = float(((found[0] - exact).abs() / (EXACT[0] * exact + EXACT[1] * scale + 1e-30)).max())
            if not own <= 1:
                raise Wrong(f"distances are not those of the matches: {own:.3g} times as far off as is allowed")
        if not further <= 1:
            raise Wrong(f"matches are {further:.3g} times as far off as is allowed")
        worst = max(worst, further)
    return worst


def _require_order(found: Found, expected: Found, gallery: int) -> None:
    distances, matches = found
    if distances.shape != expected[0].shape or matches.shape != expected[1].shape:
        raise Wrong(f"found {list(distances.shape)} and {list(matches.shape)}, not {list(expected[0].shape)}")
    if matches.numel() and not 0 <= int(matches.min()) <= int(matches.max()) < gallery:
        raise Wrong(f"matches {int(matches.min())}..{int(matches.max())} of {gallery} pixels")
    if not bool((distances[..., 1:] >= distances[..., :-1]).all()):
        raise Wrong("distances are not in ascending order, or not numbers")
    ordered = matches.sort(-1).values
    if bool((ordered[..., 1:] == ordered[..., :-1]).any()):
        raise Wrong("a gallery pixel was found twice")


def check_shaped(
    name: str, scale: Scale, dtype: torch.dtype, k: int, mode: str, device: torch.device
) -> dict[str, Any]:
    """The real shapes, all query pixels, against exact distances on the device: nearest by far, and close ties."""
    work = workload(scale, device)
    k = min(k, scale.few * (scale.pixels if mode != "per-level" else min(h * w for h, w in scale.sizes)))
    (one,) = work.batches(scale.few, 1, 1, seed=k)
    row: dict[str, Any] = {}
    for kind in ("planted", "smooth"):
        query, pool = list(one.query), [level[one.pages[0]].to(dtype) for level in work.pool]
        if kind == "smooth":  # neighbouring pixels alike, positive, as activations are
            query = [_smooth(level, size) for level, size in zip(query, scale.sizes, strict=True)]
            pool = [_smooth(level, size).to(dtype) for level, size in zip(pool, scale.sizes, strict=True)]
        arguments = {
            "query": query,
            "pool": pool,
            "pages": torch.arange(scale.few)[None],
            "k": k,
            "sizes": list(scale.sizes),
            "mode": mode,
        }
        distances, matches = (found[0].to(device) for found in search(name, arguments, device))
        every = torch.arange(scale.pixels, device=device)
        oracle = pixel_checks.Oracle(pixel_peers.Search(query, pool, scale.sizes, work.weights, k, mode), every)
        rounds = dtype != torch.float32 or name == "torch-fast"
        try:
            checked = oracle.check((distances, matches), fast=rounds)
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
    """Positive features [n, H*W, C] that change slowly over a map."""
    image = level.float().unflatten(1, size)  # [n, H, W, C]
    for axis in (1, 2):
        image = (image + image.roll(1, axis) + image.roll(-1, axis)) / 3
    return image.flatten(1, 2).relu()


def check_repeats(name: str, scale: Scale, neighbours: int, batch: int, k: int, device: torch.device) -> dict[str, Any]:
    """The same search many times: to the bit, alone and in its batch."""
    call, batches = _resident(name, scale, neighbours, batch, k, device)
    first = call(batches[0])
    for number in range(1, scale.repeats):
        again = call(batches[0])
        for what, one, other in zip(("distances", "matches"), first, again, strict=True):
            if not torch.equal(one, other):
                raise Wrong(f"run {number + 1} has other {what} at {int((one != other).sum())} places")
    alone = call(Inputs([level[-1:].contiguous() for level in batches[0].query], batches[0].pages[-1:]))
    if not torch.equal(alone[1][0], first[1][-1]) or not torch.equal(alone[0][0], first[0][-1]):
        raise Wrong("a query has another result alone than in a batch")
    return {"runs": scale.repeats}


def _resident(
    name: str, scale: Scale, neighbours: int, batch: int, k: int, device: torch.device, **more: Any
) -> tuple[Callable[[Inputs], Found], list[Inputs]]:
    """A search of resident maps, and a batch for it."""
    work = workload(scale, device)
    options = {"sizes": list(scale.sizes), "mode": "concat-nearest", **more}
    batches = work.batches(neighbours, batch, 1, seed=7)
    if name in gpu_peers.FUSED:
        run, maps = gpu_peers.fused_search(name), fused_maps(scale, device)
        return (lambda one: run(one.query, maps, one.pages, k, weights=work.weights, **options)), batches
    given = options | BACKENDS[name]
    return (lambda one: kernels.nearest_pixels(one.query, work.pool, one.pages, k, **given)), batches


def check_memory(name: str, scale: Scale, device: torch.device) -> dict[str, Any]:
    """Pages cut into parts by a small working memory: what was found as a whole."""
    batch, neighbours = 2, min(scale.slots, 12)
    whole, batches = _resident(name, scale, neighbours, batch, 3, device)
    parts, _ = _resident(name, scale, neighbours, batch, 3, device, working_memory=1)
    with poisoned(device):
        expected, found = whole(batches[0]), parts(batches[0])
    worst = float(((found[0] - expected[0]).abs() / (EXACT[0] * expected[0] + 1e-6)).max())
    if not worst <= 1:
        raise Wrong(f"in parts, distances are {worst:.3g} times as far off as is allowed")
    return {"worst": worst, "same_matches": float((found[1] == expected[1]).double().mean())}


def check_large(name: str, scale: Scale, device: torch.device) -> dict[str, Any]:
    """The last slots of a pool with more values than a 32-bit number counts: as in a small pool."""
    if name not in gpu_peers.FUSED:
        raise Missing("not resident in its own layout")
    run = gpu_peers.fused_search(name)
    work = workload(scale, device)
    (one,) = work.batches(3, 1, 1)
    pool = [level[one.pages[0]] for level in work.pool]
    small = fuse(pool, scale.sizes)
    large = type(small).empty(scale.large_slots, scale.sizes, scale.channels, torch.float16, device)
    for there, here in zip([*large.levels, *large.norms], [*small.levels, *small.norms], strict=True):
        there[-3:] = here
    options = {"sizes": list(scale.sizes), "weights": work.weights, "mode": "concat-nearest"}
    pages = torch.arange(3, device=device)[None]
    expected = run(one.query, small, pages, 2, **options)
    found = run(one.query, large, pages + scale.large_slots - 3, 2, **options)
    if not torch.equal(found[0], expected[0]) or not torch.equal(found[1], expected[1]):
        raise Wrong(f"{int((found[1] != expected[1]).sum())} matches differ")
    return {"values": large.levels[0].numel()}


@cache
def cases() -> ModuleType | None:
    """The tests' awkward cases, if hypothesis is installed."""
    if importlib.util.find_spec("hypothesis") is None or not CASES.is_file():
        return None
    spec = importlib.util.spec_from_file_location("_gpu_cases", CASES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _searches(part: int, count: int) -> Iterator[dict[str, Any]]:
    """Arguments of searches: the tests', or plainer ones."""
    module = cases()
    if module is None:
        yield from (_plain(random.Random(1000 * part + number)) for number in range(count))
        return
    import hypothesis

    drawn: list[dict[str, Any]] = []

    @hypothesis.seed(part)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(module.searches())
    def draw(arguments: dict[str, Any]) -> None:
        drawn.append(arguments)

    draw()
    yield from drawn


def _plain(choice: random.Random) -> dict[str, Any]:
    """A search of random features of odd sizes."""
    sizes = choice.choice([[(8, 8), (4, 4), (2, 2)], [(7, 11), (5, 5), (3, 2)], [(13, 9)], [(6, 4), (3, 2)]])
    batch, slots, neighbours = choice.randint(1, 3), choice.randint(1, 4), choice.randint(1, 5)
    generator = torch.Generator().manual_seed(choice.randrange(1 << 30))
    channels = [choice.choice([1, 3, 8, 17]) for _ in sizes]
    query, pool = (
        [torch.randn(n, h * w, c, generator=generator) for (h, w), c in zip(sizes, channels, strict=True)]
        for n in (batch, slots)
    )
    mode, dtype = choice.choice(kernels.MODES), choice.choice([torch.float16, torch.float32])
    smallest = min(h * w for h, w in sizes) if mode == "per-level" else sizes[0][0] * sizes[0][1]
    return {
        "query": query,
        "pool": [level.to(dtype) for level in pool],
        "pages": torch.randint(slots, (batch, neighbours), generator=generator),
        "k": choice.randint(1, min(10, neighbours * smallest)),
        "sizes": sizes,
        "weights": None,
        "mode": mode,
    }


def _described(arguments: dict[str, Any]) -> str:
    pool = arguments["pool"]
    return (
        f"{arguments['mode']}, sizes {arguments['sizes']}, channels {[level.shape[2] for level in pool]}, "
        f"{str(pool[0].dtype).removeprefix('torch.')}, k {arguments['k']}, pages {arguments['pages'].tolist()}"
    )
