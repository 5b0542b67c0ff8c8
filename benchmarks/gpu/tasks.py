"""What benchmarks/gpu.sh does, task by task, in order."""

import subprocess
from functools import partial
from typing import Any

import torch

from spade_index.benchmarks.gpu import checks as gpu_checks
from spade_index.benchmarks.gpu import parts as gpu_parts
from spade_index.benchmarks.gpu import peers as gpu_peers
from spade_index.benchmarks.gpu import whole as gpu_whole
from spade_index.benchmarks.gpu.data import FULL, SMOKE, Scale
from spade_index.benchmarks.gpu.runner import Task
from spade_index.benchmarks.gpu.search import gpu

HALF, BFLOAT, FLOAT = torch.float16, torch.bfloat16, torch.float32
SHAPED = (
    (HALF, 1, "concat-nearest"),
    (HALF, 10, "concat-nearest"),
    (BFLOAT, 1, "concat-nearest"),
    (HALF, 3, "per-level"),
    (HALF, 3, "concat-nearest"),
    (FLOAT, 1, "concat-nearest"),
    (HALF, 1, "concat-bilinear"),
    (BFLOAT, 10, "concat-nearest"),
    (FLOAT, 3, "per-level"),
)
CHECKED = 64  # maps that are resident in checks, of which many are done at a time


def all_tasks(smoke: bool, lanes: int) -> list[Task]:
    """Every task; those of the checks are dealt to `lanes` workers if there are more than one."""
    scale = SMOKE if smoke else FULL
    device = torch.device("cuda" if torch.cuda.is_available() and not smoke else "cpu")
    tasks = [Task("environment", "torch", partial(_environment, device))]
    for number, (name, run) in enumerate(_checks(scale, device, smoke)):
        tasks.append(Task("checks", name, run, 70, 1 + number % lanes if lanes > 1 else 0))
    neighbours, _ = scale.cells[0]
    for number, (name, run) in enumerate(_compilations(gpu_parts.few(scale, 200), device, smoke)):
        tasks.append(Task("compile", name, run, 60, 1 + number % lanes if lanes > 1 else 0))
    for backend, step, tiles in _tiles(smoke):
        run = partial(gpu_parts.time_tiles, backend, step, tiles, scale, neighbours, device)
        tasks.append(Task("tuning", f"{backend} {step} {' '.join(map(str, tiles))}", run, 30))
    for backend in gpu_peers.FUSED:
        tasks += [
            Task("kernels", f"{backend}: steps", partial(gpu_parts.time_steps, backend, scale, neighbours, device)),
            Task(
                "kernels", f"{backend}: profile", partial(gpu_parts.profile_search, backend, scale, neighbours, device)
            ),
        ]
    tasks += _ceilings(scale, neighbours, device)
    for neighbours, batch in scale.cells:
        for key, contender in gpu_peers.CONTENDERS.items():
            if (contender.once and (neighbours, batch) != scale.cells[0]) or (contender.alone and batch > 1):
                continue
            run = partial(gpu_whole.contend, key, scale, neighbours, batch, device)
            tasks.append(Task("benchmark", f"{key}, K = {neighbours}, batch {batch}", run, 60))
    neighbours, _ = scale.cells[0]
    for case in ("cold", "warm", "mixed"):
        tasks.append(
            Task("pool", case, partial(gpu_whole.time_pool, case, gpu_parts.few(scale, 256), neighbours, device))
        )
    for backend in ["torch"] if smoke else [*gpu_peers.FUSED, "torch"]:
        tasks.append(Task("query", backend, partial(gpu_whole.whole_query, backend, scale, neighbours, device), 90))
    return tasks


def _checks(scale: Scale, device: torch.device, smoke: bool) -> list[tuple[str, Any]]:
    checks: list[tuple[str, Any]] = []
    small = gpu_parts.few(scale, CHECKED)
    neighbours = min(50, small.slots)
    for name in gpu_checks.BACKENDS:  # the most telling of each first
        for dtype, k, mode in SHAPED[:1] if smoke else SHAPED:
            run = partial(gpu_checks.check_shaped, name, small, dtype, k, mode, device)
            checks.append((f"{name}: {mode}, {str(dtype).removeprefix('torch.')}, k = {k}", run))
        repeats = partial(gpu_checks.check_repeats, name, small)
        checks += [
            (f"{name}: the same {small.repeats} times", partial(repeats, neighbours, 2, 1, device)),
            (f"{name}: page in parts", partial(gpu_checks.check_memory, name, small, device)),
        ]
        if not smoke:
            checks.append((f"{name}: the same, k = 10", partial(repeats, scale.few, 1, 10, device)))
        if name in gpu_peers.FUSED:
            checks.append((f"{name}: a large pool", partial(gpu_checks.check_large, name, small, device)))
        if smoke and name in gpu_peers.FUSED:
            continue  # seconds in the interpreter
        for part in range(scale.random_tasks):
            run = partial(gpu_checks.check_random, name, scale, part, device, 30.0)
            checks.append((f"{name}: random {part}", run))
    ours = [check for check in checks if check[0].split(":")[0] in gpu_peers.FUSED]
    return ours + [check for check in checks if check not in ours]


def _tiles(smoke: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    return [
        (backend, step, tiles)
        for backend, step, every in gpu_parts.TILES
        for tiles in (gpu_parts.SMALL[backend] if smoke else every)
    ]


def _compilations(scale: Scale, device: torch.device, smoke: bool) -> list[tuple[str, Any]]:
    """What many workers may compile for the one that times, which then finds it in a cache on the disk."""
    neighbours = list(dict.fromkeys(neighbours for neighbours, _ in scale.cells[: 1 if smoke else None]))
    found: list[tuple[str, Any]] = [
        (f"{key}, K = {n}", partial(gpu_parts.compile_contender, key, scale, n, device))
        for n in neighbours
        for key in gpu_peers.FUSED
    ]
    found.append(("argmin", partial(gpu_parts.compile_contender, "argmin", scale, 2, device)))
    for backend, step, tiles in [] if smoke else _tiles(smoke):
        run = partial(gpu_parts.compile_tiles, backend, step, tiles, scale, neighbours[0], device)
        found.append((f"{backend} {step} {' '.join(map(str, tiles))}", run))
    return found


def _ceilings(scale: Scale, neighbours: int, device: torch.device) -> list[Task]:
    n = scale.gemm
    tasks = [
        Task("ceilings", f"matmul {dtype}", partial(gpu_parts.matmul, n, n, n, getattr(torch, dtype), scale, device))
        for dtype in ("float16", "bfloat16")
    ]
    shape = (scale.pixels, scale.channels[0], neighbours * scale.pixels)
    tasks.append(Task("ceilings", "matmul of level 0", partial(gpu_parts.matmul, *shape, HALF, scale, device)))
    tasks.append(Task("ceilings", "clocks after products", gpu))
    return tasks + [
        Task("ceilings", f"copy {kind}", partial(gpu_parts.copy, kind, scale, device))
        for kind in ("device", "pinned", "pageable")
    ]


def _environment(device: torch.device) -> dict[str, Any]:
    row: dict[str, Any] = {"device": str(device), "torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        row |= {
            "gpu": found.name,
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_gb": found.total_memory / 1e9,
            "l2_mb": getattr(found, "L2_cache_size", 0) / 1e6,
        }
        shown = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
        row["nvidia_smi"] = shown.splitlines()[:16]
    return row
