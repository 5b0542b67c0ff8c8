"""Checks of the pixel search on a GPU, and its benchmark: benchmarks/gpu.sh runs them."""
