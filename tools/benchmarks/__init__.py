"""Benchmarks: what this machine does beside other receivers, and why things are done as they are."""
