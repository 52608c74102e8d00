"""Lockstep: training runs whose result is the same bits again, and a receipt that proves it."""

__version__ = "1.0.0"
