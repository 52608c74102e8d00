"""What a model takes and how it answers."""
