"""Simulated machines that run the product's cores, and what carries their messages."""
