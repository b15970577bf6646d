"""MCMC on p(z|x)."""
