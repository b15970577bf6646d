"""What Pyro lacks: distributions, transforms, links, supports."""
