"""Benchmarks of spade_index: programs that print their measurements as a table and write them as JSON."""
