"""What everything stands on: errors, files, digests, processes, places; it imports no part."""
