"""Tests of galleries under kills, failing writes and flipped bits."""
