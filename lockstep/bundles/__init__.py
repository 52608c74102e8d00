"""Bundles, as they are opened: nothing of one is used before all of it was verified."""
