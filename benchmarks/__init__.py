"""Reproducible measurements: one module each, JSON out, run by `rise bench`."""
