"""The densities of a model and a guide."""
