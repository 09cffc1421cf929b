"""What the administrator may set: the schema, the loader that names every mistake, the reference text."""
