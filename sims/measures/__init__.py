"""What a simulation measures, each measure a small observer beside the world."""
