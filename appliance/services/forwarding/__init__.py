"""The process that sends."""
