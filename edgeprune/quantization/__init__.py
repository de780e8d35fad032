"""Rounding to an exporter's grid with the calibration statistics in view, zeros left alone."""
