"""Closed forms and independent Monte Carlo that simulations are held against.

Nothing here imports the product or the simulator: an expectation that shared code with what
it judges would agree with its mistakes.

Reasons: docs/decisions/0023.
"""
