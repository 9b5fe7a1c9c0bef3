"""The simulator's engine: one event heap, virtual time, seeded streams, a simulated network."""
