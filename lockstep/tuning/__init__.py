"""Searching for better settings: a study's trials are ordinary runs.

``space`` says what may be tried, ``study`` what is tried next and what is known so far, ``work``
trains the trials and looks on.
"""
