"""The process that is looked at."""
