"""Compute the results that simulations are compared with: closed forms and Monte Carlo.

Nothing here imports the product or the simulator. If an expectation shared code with the
simulation, both would contain the same mistakes.

Reasons: docs/decisions/0023.
"""
