"""SPADE: detection, calibration and evaluation."""
