"""Simulated images and series: what models are trained on and what tests and the demo send."""
