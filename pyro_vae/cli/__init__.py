"""What the commands of ``pyro-vae`` do. What can be typed is in ``pyro_vae_command``."""

from pyro_vae_command import app as app
