"""Campaigns: long experiments on a running appliance whose results stand in docs/reliability.md."""
