"""The one exception that means: the user can put this right."""


class UserError(Exception):
    """A mistake the user can put right; its message says what was given, expected and to do.

    The command line prints the message without a traceback and exits with code 2.
    """
