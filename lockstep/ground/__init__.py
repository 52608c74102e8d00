"""The ground of all other packages: errors, files, digests, processes, places."""
