"""The spool: files that are on stable storage before anybody is told so."""
