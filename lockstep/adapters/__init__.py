"""Adapters: modules that were written for another library, trained here with unchanged source."""
