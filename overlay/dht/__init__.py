"""Topology maintenance and knowledge: DHT and Mix-nodes Topology Table (paper, 2.1, 2.2)."""
