"""The process that runs models."""
