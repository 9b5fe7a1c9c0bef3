"""Simulations that run the control plane of the product on a simulated network."""
