"""Names to a VAE and back; one file with weights and spec."""
