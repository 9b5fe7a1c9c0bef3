"""Scenarios: what to simulate, from a file, from options or from Python."""
