"""Measures the figures of the README: ``python -m lockstep.benchmarks all``."""
