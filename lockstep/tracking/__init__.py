"""MLflow: a view on the runs folder, never the truth, and never in a process that trains."""
