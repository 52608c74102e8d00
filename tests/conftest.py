"""What our tests share."""

from lockstep import testing  # noqa: F401  (first, because it sets what torch reads when it is loaded)
