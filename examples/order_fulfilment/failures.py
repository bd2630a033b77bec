"""Ways in which a command can fail, each with a code for programs and a sentence for people."""


class Failed(Exception):
    """The command could not do its work."""

    code = "failed"


class SettingsInvalid(Failed):
    """The environment does not say how to reach the engine."""

    code = "settings_invalid"


class LedgerUnusable(Failed):
    """The folder cannot hold the shop's ledger."""

    code = "ledger_unusable"


class DeploymentRefused(Failed):
    """The engine does not accept a process file; the text is the engine's own."""

    code = "deployment_refused"


class UnknownOrder(Failed):
    """The ledger knows no such order, or it never got so far."""

    code = "unknown_order"


class TookTooLong(Failed):
    """The orders did not get where they should within the time given."""

    code = "timeout"


class EngineTrouble(Failed):
    """The engine, or the endpoint that issues tokens for it, does not do what we ask."""

    code = "engine_trouble"


class Interrupted(Failed):
    """A signal came before the work was done."""

    code = "interrupted"


def root_of(error: BaseException) -> BaseException:
    """Return the first real exception inside nested groups, as task groups raise them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
