"""Simulators, training, validation and benches. May import `appliance`; never the other way round."""
