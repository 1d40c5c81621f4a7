"""Figures of a trained network: metrics, calibration, thresholds, plots."""
