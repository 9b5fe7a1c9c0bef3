"""Scenarios: what to simulate, read from a file, from options or from Python."""
