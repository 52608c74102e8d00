"""Runs a team's own programs: seeded, watched, with a receipt."""
