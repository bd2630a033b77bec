"""Read settings from the environment, strictly: an unknown or missing FLOWPLANE_ variable stops the start.

`FLOWPLANE_NAME_FILE` may stand for `FLOWPLANE_NAME`: its content is read, with white space at the ends removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, overload
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

PREFIX = "FLOWPLANE_"

_Value = TypeVar("_Value")


class Environment:
    """A strict reader. Ask for every variable there is, then call `refuse_unknown`."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._given = {name: value for name, value in variables.items() if name.startswith(PREFIX)}
        self._known: set[str] = set()

    @overload
    def text(self, name: str) -> str: ...
    @overload
    def text(self, name: str, default: _Value) -> str | _Value: ...
    def text(self, name: str, default: object = ...) -> object:
        """The variable's text; without a default it must be set and not empty."""
        variable, file_variable = PREFIX + name, f"{PREFIX}{name}_FILE"
        self._known |= {variable, file_variable}
        if variable in self._given and file_variable in self._given:
            raise ImproperlyConfigured(f"{variable} and {file_variable} are both set. Remove one of them.")
        if file_variable in self._given:
            return _read(file_variable, Path(self._given[file_variable]))
        if value := self._given.get(variable, ""):
            return value
        if default is ...:
            raise ImproperlyConfigured(f"{variable} is not set. Set it (or {file_variable}) and start again.")
        return default

    def all_or_none(self, *names: str) -> dict[str, str] | None:
        """Texts that belong together, by name; None when none of them is set."""
        values = {name: self.text(name, "") for name in names}
        missing = [PREFIX + name for name, value in values.items() if not value]
        if len(missing) == len(names):
            return None
        if missing:
            given = sorted(PREFIX + name for name, value in values.items() if value)
            raise ImproperlyConfigured(f"{', '.join(missing)} must be set too, because {', '.join(given)} is.")
        return values

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number, 0 or above."""
        return self._parsed(name, None if default is None else str(default), int, "a whole number", lambda n: n >= 0)

    def optional_number(self, name: str) -> int | None:
        """A whole number, or None when the variable is not set."""
        return self.number(name) if self.text(name, None) is not None else None

    def flag(self, name: str, default: str) -> bool:
        """`on` or `off`."""
        return self.one_of(name, ("on", "off"), default) == "on"

    def one_of(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """One of the allowed words."""
        return self._parsed(name, default, str, "one of: " + ", ".join(allowed), lambda word: word in allowed)

    def port_range(self, name: str, default: str) -> range:
        """`FIRST-LAST`, both included."""

        def parse(text: str) -> range:
            first, last = (int(part) for part in text.split("-"))
            return range(first, last + 1)

        return self._parsed(
            name, default, parse, "a range of ports such as 26500-26999", lambda r: 1024 <= r.start < r.stop <= 65536
        )

    def web_address(self, name: str) -> str:
        """An http or https address, without a slash at its end."""
        wanted = "an address such as https://flowplane.example"
        return self._parsed(name, None, str, wanted, _is_web_address).rstrip("/")

    def fernet_keys(self, name: str) -> tuple[str, ...]:
        """One Fernet key or several, separated by commas. A refusal does not repeat them."""
        keys = tuple(key.strip() for key in self.text(name).split(","))
        try:
            for key in keys:
                Fernet(key)
        except ValueError:
            raise ImproperlyConfigured(
                f"{PREFIX}{name} must be Fernet keys, separated by commas: 32 random bytes each, as URL-safe base64."
            ) from None
        return keys

    def refuse_unknown(self) -> None:
        """Stop when a FLOWPLANE_ variable is set that nobody asked for: it is most likely misspelt."""
        if unknown := sorted(self._given.keys() - self._known):
            raise ImproperlyConfigured(
                f"{', '.join(unknown)}: no such setting. Correct the name or remove it from the environment."
            )

    def _parsed(
        self,
        name: str,
        default: str | None,
        parse: Callable[[str], _Value],
        wanted: str,
        holds: Callable[[_Value], bool],
    ) -> _Value:
        text = self.text(name) if default is None else self.text(name, default)
        try:
            value = parse(text)
            if holds(value):
                return value
        except ValueError:
            pass
        raise ImproperlyConfigured(f"{PREFIX}{name} is “{text}”, but must be {wanted}.")


def _is_web_address(text: str) -> bool:
    parts = urlsplit(text)
    has_port = parts.port is None or parts.port > 0  # raises ValueError on what is no port
    is_bare = not parts.query and not parts.fragment and not parts.username
    return text.startswith(("http://", "https://")) and bool(parts.hostname) and has_port and is_bare


def _read(variable: str, path: Path) -> str:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ImproperlyConfigured(f"{variable} names a file that cannot be read: {error.strerror}.") from error
    if not value:
        raise ImproperlyConfigured(f"{variable} names an empty file.")
    return value
