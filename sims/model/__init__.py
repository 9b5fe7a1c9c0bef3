"""A vectorised model of the overlay, for populations that no simulation of each datagram holds.

Not the product's code, but the product's behaviour in the mean: who is on-line, what a routing
table holds, how a lookup over it goes, how long records and Mix-nodes stay known. It is held
against the full simulation where both run (:mod:`sims.model.validation`).
"""
