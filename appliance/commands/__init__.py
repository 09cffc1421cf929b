"""Parts of the command line, by what they are about; `__main__.py` joins them."""
