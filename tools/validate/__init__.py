"""Measurements of the models in `engines/`: the figures of their model cards."""
