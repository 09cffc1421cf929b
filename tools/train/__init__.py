"""Training of the models in `engines/`, on simulated data only."""
