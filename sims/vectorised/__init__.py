"""A vectorised model of the overlay, for populations that are too large for the full simulation.

It does not run the product's code. It computes the mean behaviour of the product: which nodes
are on line, what routing tables hold, how lookups proceed, how long records and Mix-nodes stay
known. Tests compare its lookups with theory. ``overlay sim accept M1`` compares its results
with the full simulation, within the bounds of ``sims/acceptance/validation.py``.
"""
