"""What our tests share."""
