"""Acceptance experiments: compare the overlay with theory and published measurements."""
