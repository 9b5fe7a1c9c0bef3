"""Studies: runs of a scenario, their results and their reports."""
