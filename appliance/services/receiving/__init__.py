"""The process that takes images in."""
