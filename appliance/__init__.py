"""Edge inference appliance: stands between a hospital's scanners and its PACS."""

__version__ = "0.1.0"
