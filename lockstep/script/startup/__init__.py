"""A folder for PYTHONPATH: Python imports its ``sitecustomize`` before a program's first line."""
