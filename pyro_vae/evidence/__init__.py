"""log p(x), datum by datum."""
