"""Model packages: their manifests, which series they take, their guards and their tasks."""
