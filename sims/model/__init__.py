"""A vectorised model of the overlay, for populations that no simulation of each datagram holds.

Not the product's code, but the product's behaviour in the mean: who is on-line, what a routing
table holds, how a lookup over it goes, how long records and Mix-nodes stay known. Its lookups are
held against theory, and all that it yields against the full simulation, within the bounds that
``sims/model/validation.py`` states (``overlay sim accept M1``).
"""
