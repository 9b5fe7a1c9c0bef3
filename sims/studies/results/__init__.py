"""Results of simulations: observations, statistics over seeds, directories, figures, reports."""
