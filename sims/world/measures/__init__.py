"""Measures of a simulation. Each measure is an observer that does not change the world."""
