"""Shards: HDF5 files of features that never change once written."""
