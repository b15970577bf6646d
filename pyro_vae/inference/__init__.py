"""What is computed with a VAE."""
