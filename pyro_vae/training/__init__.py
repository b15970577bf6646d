"""``fit``, and what it needs."""
