"""What keeps a command from its work, said to the operator as one sentence instead of a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
from django.core.management.base import CommandError
from django.db import Error as DjangoDatabaseError

from config.archive import Refusal


@contextlib.contextmanager
def said_in_a_sentence(aftermath: str) -> Iterator[None]:
    """Turn refusals of ours, of the system and of the database into a `CommandError`.

    Args:
        aftermath: how things stand after what the system or the database refused.
    """
    try:
        yield
    except Refusal as refusal:
        raise CommandError(str(refusal)) from refusal
    except OSError as error:
        raise CommandError(f"{aftermath} The system said: {error}.") from error
    except (DjangoDatabaseError, psycopg.Error) as error:
        # The first line only: those below may quote a row.
        raise CommandError(f"{aftermath} The database said: {str(error).splitlines()[0]}.") from error
