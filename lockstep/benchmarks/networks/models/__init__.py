"""A folder each."""
