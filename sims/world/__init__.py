"""The simulated world: the engine, its participants, and the measures on them."""
