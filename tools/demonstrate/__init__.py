"""The demonstration: a scanner, the appliance and a PACS on one machine, checked at the PACS."""
