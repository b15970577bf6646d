"""``python -m pyro_vae`` is the command ``pyro-vae``."""

from pyro_vae_command import app

if __name__ == "__main__":
    app(prog_name="pyro-vae")
