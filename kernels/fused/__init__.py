"""The pixel search in GPU kernels, written in Triton and in CUDA C++: no matrix of pixels by pixels is stored."""
