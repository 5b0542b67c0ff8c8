"""What benchmarks/gpu.sh runs: checks of the pixel search on a GPU, and its benchmark."""
