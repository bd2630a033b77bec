"""What goes wrong on the machine, in words."""


class SetupError(Exception):
    """A sentence for the person at the terminal: what is wrong, where, and what to do."""
