"""Simulated machines that run the product's cores, and carriers of their messages."""
