"""``overlay sim``: simulations from the command line."""
