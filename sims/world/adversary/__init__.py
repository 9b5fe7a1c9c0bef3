"""The adversary of a simulation: machines that run the product's core with false answers."""
