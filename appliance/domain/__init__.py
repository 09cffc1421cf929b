"""Facts, states and decisions of the appliance. Standard library only; no I/O and no clock."""
