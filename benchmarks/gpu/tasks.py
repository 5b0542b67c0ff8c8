"""The tasks of the GPU benchmark, in order."""

import subprocess
from collections.abc import Callable
from functools import partial

import torch

from spade_index.benchmarks.gpu import checks, parts, whole
from spade_index.benchmarks.gpu.device import gpu
from spade_index.benchmarks.gpu.peers import CONTENDERS, FUSED
from spade_index.benchmarks.gpu.runner import Row, Task
from spade_index.benchmarks.gpu.workload import FULL, SMOKE, Scale, replace_slots

HALF, BFLOAT, FLOAT = torch.float16, torch.bfloat16, torch.float32
SHAPED = (
    *((HALF, 1, "concat-nearest"), (HALF, 10, "concat-nearest"), (BFLOAT, 1, "concat-nearest")),
    *((HALF, 3, "per-level"), (HALF, 3, "concat-nearest"), (FLOAT, 1, "concat-nearest")),
    *((HALF, 1, "concat-bilinear"), (BFLOAT, 10, "concat-nearest"), (FLOAT, 3, "per-level")),
)
CHECKED = 64  # resident maps of the checks, of which many run at a time
Named = tuple[str, Callable[[], Row]]


def all_tasks(smoke: bool, lanes: int) -> list[Task]:
    """Return every task; checks and compilations are dealt to `lanes` workers if there are several."""
    scale = SMOKE if smoke else FULL
    device = torch.device("cuda" if torch.cuda.is_available() and not smoke else "cpu")
    neighbours, _ = scale.cells[0]
    shared = [("checks", 70.0, _checks(scale, device, smoke)), ("compile", 60.0, _compilations(scale, device, smoke))]
    tasks = [Task("environment", "torch", partial(_environment, device))]
    for section, limit, named in shared:
        lane_of = [1 + number % lanes if lanes > 1 else 0 for number in range(len(named))]
        tasks += [Task(section, name, run, limit, lane) for (name, run), lane in zip(named, lane_of, strict=True)]
    for backend, step, tiles in _tiles(smoke):
        run = partial(parts.time_tiles, backend, step, tiles, scale, neighbours, device)
        tasks.append(Task("tuning", f"{backend} {step} {' '.join(map(str, tiles))}", run, 30))
    for backend in FUSED:
        for kind, measure in (("steps", parts.time_steps), ("profile", parts.profile_search)):
            tasks.append(Task("kernels", f"{backend}: {kind}", partial(measure, backend, scale, neighbours, device)))
    tasks += _ceilings(scale, neighbours, device)
    for cell in scale.cells:
        for key, contender in CONTENDERS.items():
            if (contender.once and cell != scale.cells[0]) or (contender.alone and cell[1] > 1):
                continue
            run = partial(whole.contend, key, scale, *cell, device)
            tasks.append(Task("benchmark", f"{key}, K = {cell[0]}, batch {cell[1]}", run))
    for case in ("cold", "warm", "mixed"):
        tasks.append(Task("pool", case, partial(whole.time_pool, case, replace_slots(scale, 256), neighbours, device)))
    return tasks


def _checks(scale: Scale, device: torch.device, smoke: bool) -> list[Named]:
    """Return the checks, those of the fused backends first, and the most telling of each backend first."""
    found: list[Named] = []
    small = replace_slots(scale, CHECKED)
    for name in sorted(checks.BACKENDS, key=lambda name: name not in FUSED):
        for dtype, k, mode in SHAPED[:1] if smoke else SHAPED:
            run = partial(checks.check_shaped, name, small, dtype, k, mode, device)
            found.append((f"{name}: {mode}, {str(dtype).removeprefix('torch.')}, k = {k}", run))
        repeats = partial(checks.check_repeats, name, small)
        found += [
            (f"{name}: the same {small.repeats} times", partial(repeats, min(50, small.slots), 1, device)),
            (f"{name}: page in parts", partial(checks.check_memory, name, small, device)),
        ]
        if not smoke:
            found.append((f"{name}: the same, k = 10", partial(repeats, scale.few, 10, device)))
        if name in FUSED:
            found.append((f"{name}: a large pool", partial(checks.check_large, name, small, device)))
        if smoke and name in FUSED:
            continue  # seconds in the interpreter
        for part in range(scale.random_tasks):
            run = partial(checks.check_random, name, scale, part, device, 30.0)
            found.append((f"{name}: random {part}", run))
    return found


def _tiles(smoke: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    return [
        (backend, step, tiles)
        for (backend, step), every in parts.TILES.items()
        for tiles in ([parts.SMALL[backend]] if smoke else every)
    ]


def _compilations(scale: Scale, device: torch.device, smoke: bool) -> list[Named]:
    """Return compilations for many workers; the one that times then finds them in a cache on the disk."""
    scale = replace_slots(scale, 200)
    neighbours = list(dict.fromkeys(neighbours for neighbours, _ in scale.cells[: 1 if smoke else None]))
    keys = [(f"{key}, K = {n}", key, n) for n in neighbours for key in FUSED] + [("argmin", "argmin", 2)]
    found: list[Named] = [(name, partial(parts.compile_contender, key, scale, n, device)) for name, key, n in keys]
    for backend, step, tiles in [] if smoke else _tiles(smoke):
        run = partial(parts.compile_tiles, backend, step, tiles, scale, neighbours[0], device)
        found.append((f"{backend} {step} {' '.join(map(str, tiles))}", run))
    return found


def _ceilings(scale: Scale, neighbours: int, device: torch.device) -> list[Task]:
    n = scale.gemm
    products = [(f"matmul {str(dtype).removeprefix('torch.')}", (n, n, n), dtype) for dtype in (HALF, BFLOAT)]
    products.append(("matmul of level 0", (scale.pixels, scale.channels[0], neighbours * scale.pixels), HALF))
    named: list[Named] = [(name, partial(parts.matmul, shape, of, scale, device)) for name, shape, of in products]
    named.append(("clocks after products", gpu))
    named += [(f"copy {kind}", partial(parts.copy, kind, scale, device)) for kind in ("device", "pinned", "pageable")]
    return [Task("ceilings", name, run) for name, run in named]


def _environment(device: torch.device) -> Row:
    row: Row = {"device": str(device), "torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type != "cuda":
        return row
    found = torch.cuda.get_device_properties(device)
    shown = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
    return row | {
        "gpu": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_gb": found.total_memory / 1e9,
        "l2_mb": getattr(found, "L2_cache_size", 0) / 1e6,
        "nvidia_smi": shown.splitlines()[:16],
    }
