"""A VAE from names and plain values, and back; one file with weights and spec."""
