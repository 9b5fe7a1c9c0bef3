"""What simulations yield: observations, statistics over seeds, directories, figures, reports."""
