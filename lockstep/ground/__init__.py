"""What everything stands on: errors, files, digests, processes, places. It imports nothing of the rest."""
