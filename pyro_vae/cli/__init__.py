"""The command ``pyro-vae``."""

from .app import app as app
