"""prefrl: teach an agent from preferences.

This package imports nothing heavy, so that `prefrl --help` and `import prefrl.envs` stay quick.
Import what you need from its modules, for example
`from prefrl.learning.loop import preference_loop`.
"""

__version__ = "0.1.0"
