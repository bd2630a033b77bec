"""Every address the web process answers, taken from the resolver itself, so that none can be forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
_API_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Route:
    """One address pattern with its view."""

    pattern: str
    view: Any

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in its path."""
        return tuple(_PARAMETER.findall(self.pattern))

    @property
    def methods(self) -> tuple[str, ...]:
        """What the view answers: exactly for the REST door, reading and writing for pages."""
        view_class = getattr(self.view, "cls", None)
        if view_class is None:
            return ("get", "post")
        return tuple(method for method in _API_METHODS if hasattr(view_class, method))

    def address(self, ids: Mapping[str, str]) -> str:
        """The path with its parameters filled in; a name without an id is a `KeyError`."""
        return _PARAMETER.sub(lambda match: ids[match[1]], self.pattern)


def all_routes(prefix: str = "/") -> list[Route]:
    """Every route whose path begins so."""
    return [route for route in _walk(get_resolver().url_patterns, "/") if route.pattern.startswith(prefix)]


def _walk(patterns: list[URLPattern | URLResolver], prefix: str) -> Iterator[Route]:
    for entry in patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from _walk(entry.url_patterns, path)
        else:
            yield Route(path, entry.callback)
