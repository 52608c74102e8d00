"""Accepted runs, and an account on moto's server."""

from lockstep.tests.clouds import accepted, bundle, cloud, digits, runs  # noqa: F401
