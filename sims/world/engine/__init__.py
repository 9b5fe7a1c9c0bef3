"""The simulator's engine: an event heap, virtual time, random streams, a simulated network."""
