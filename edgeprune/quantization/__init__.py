"""Calibrated rounding to an exporter's grid; zeros stay zero."""
