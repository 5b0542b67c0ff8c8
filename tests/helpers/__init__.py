"""Helpers that tests share: images, galleries, services, commands and the cases of the kernels."""
