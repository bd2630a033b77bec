"""Whether what is in a namespace is what was rendered. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from provisioning.backends.kubernetes.kinds import RULES, Object, name_in

Key = tuple[str, str]
# One value each, whatever they are in: another label beside ours chooses other pods.
_WHOLE = frozenset({"selector"})


def key_of(found: Object, kind: str = "") -> Key:
    """Return an object's kind and name; objects in a list do not say their kind."""
    return kind or str(found.get("kind", "")), name_in(found)


def first_difference(rendered: Iterable[Object], found: Mapping[Key, Object]) -> str:
    """Return which object drifted, "" when none did; one that was not rendered counts, too.

    What others have added to an object (fields, labels, finalizers) is theirs, and no difference; but a rule says
    another thing with an addition, so there is none in it.
    """
    wished = {key_of(one): one for one in rendered}
    for key, one in wished.items():
        if key not in found:
            return f"{key[0]} {key[1]} is missing"
        if path := where_it_differs(one, found[key]):
            return f"{key[0]} {key[1]} differs at {path}"
    surplus = next((key for key in found if key not in wished), None)
    return f"{surplus[0]} {surplus[1]} is not wished" if surplus else ""


def where_it_differs(rendered: Object, found: Object) -> str:
    """Return where an object is not as it was rendered, "" when it is."""
    if path := differs(_comparable(rendered), found):
        return path
    is_other = rendered["kind"] in RULES and _pruned(rendered.get("spec")) != _pruned(found.get("spec"))
    return ".spec" if is_other else ""


def differs(wished: Any, found: Any, path: str = "") -> str:
    """Return where something that was wished is not there, "" when all of it is. An empty wish is none."""
    if isinstance(wished, Mapping):
        return _differing_field(wished, found if isinstance(found, Mapping) else {}, path)
    if isinstance(wished, Sequence) and not isinstance(wished, str):
        return _differing_item(wished, found if isinstance(found, Sequence) else (), path)
    return "" if wished == found or (wished is None and not found) else path or "."


def _differing_field(wished: Mapping[str, Any], found: Mapping[str, Any], path: str) -> str:
    for name, value in wished.items():
        if value in (None, {}, []) and not found.get(name):
            continue
        if name not in found or (name in _WHOLE and _pruned(value) != _pruned(found[name])):
            return f"{path}.{name}"
        if where := differs(value, found[name], f"{path}.{name}"):
            return where
    return ""


def _differing_item(wished: Sequence[Any], found: Sequence[Any], path: str) -> str:
    if len(wished) != len(found):
        return path
    pairs = zip(wished, found, strict=True)
    return next(
        (where for number, (one, other) in enumerate(pairs) if (where := differs(one, other, f"{path}[{number}]"))), ""
    )


def _pruned(part: Any) -> Any:
    """Return a part without what says nothing: fields that are null, and empty lists. An empty choice says: all."""
    if isinstance(part, Mapping):
        return {name: _pruned(value) for name, value in part.items() if value not in (None, [], ())}
    if isinstance(part, Sequence) and not isinstance(part, str):
        return [_pruned(one) for one in part]
    return part


def _comparable(rendered: Object) -> Object:
    """Return what can be compared: an object in a list says neither its kind nor its version."""
    return {name: value for name, value in rendered.items() if name not in {"kind", "apiVersion"}}
