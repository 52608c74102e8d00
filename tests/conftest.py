"""What our tests share."""

