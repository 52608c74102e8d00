"""The example models, a folder each."""
