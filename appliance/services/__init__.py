"""The processes: one file each. The only code that joins the parts."""
