"""The GPU that is measured, as nvidia-smi reports it."""

import subprocess

CLOCKS = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu"


def gpu() -> dict[str, str]:
    """Return what nvidia-smi reports, empty without it."""
    command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(CLOCKS.split(","), shown.stdout.strip().splitlines()[0].split(", "), strict=False))
