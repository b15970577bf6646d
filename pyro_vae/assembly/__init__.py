"""How prior, likelihood and guide fit together."""
