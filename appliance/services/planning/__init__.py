"""The process that decides what is analysed, and what may leave the spool."""
