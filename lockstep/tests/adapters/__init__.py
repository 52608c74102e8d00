"""Tests of adapters, with the real libraries, which no lock has."""
