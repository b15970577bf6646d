"""What can stand in p(z), p(x|z) and q(z|x)."""
