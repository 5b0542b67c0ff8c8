"""The tasks of the GPU benchmark, in order."""

from collections.abc import Callable
from functools import partial

import torch

from spade_index.benchmarks.gpu import checks, codes, whole
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
    """Return every task; checks are dealt to `lanes` workers if there are several."""
    scale = SMOKE if smoke else FULL
    device = torch.device("cuda" if torch.cuda.is_available() and not smoke else "cpu")
    neighbours, _ = scale.cells[0]
    tasks = []
    for number, (name, run) in enumerate(_checks(scale, device, smoke)):
        tasks.append(Task("checks", name, run, 70.0, 1 + number % lanes if lanes > 1 else 0))
    tasks += _ceilings(scale, neighbours, device)
    for cell in scale.cells:
        for key, contender in CONTENDERS.items():
            if (contender.once and cell != scale.cells[0]) or (contender.alone and cell[1] > 1):
                continue
            run = partial(whole.contend, key, scale, *cell, device)
            tasks.append(Task("benchmark", f"{key}, K = {cell[0]}, batch {cell[1]}", run))
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
        for kind in codes.KINDS:
            found.append((f"{name}: maps in {kind}", partial(codes.check_codes, name, small, kind, device)))
            found.append(
                (f"{name}: {kind}, averaged and scaled", partial(codes.check_prepared, name, small, kind, device))
            )
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


def _ceilings(scale: Scale, neighbours: int, device: torch.device) -> list[Task]:
    n = scale.gemm
    products = [(f"matmul {str(dtype).removeprefix('torch.')}", (n, n, n), dtype) for dtype in (HALF, BFLOAT)]
    products.append(("matmul of level 0", (scale.pixels, scale.channels[0], neighbours * scale.pixels), HALF))
    named: list[Named] = [(name, partial(whole.matmul, shape, of, scale, device)) for name, shape, of in products]
    return [Task("ceilings", name, run) for name, run in named]
