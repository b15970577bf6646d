"""What can be typed: the subcommands of ``pyro-vae``, their options and their help.

Importing a module of ``pyro_vae`` imports torch and Pyro, which takes seconds. This package imports
neither before a command has understood its arguments; what the commands do is in ``pyro_vae.cli``.
"""

from .app import app as app
