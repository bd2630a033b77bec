"""What a name may look like: names are read by people, so nothing in them may mislead the eye."""

from __future__ import annotations

import unicodedata

from tenants.errors import InvalidName

MAX_NAME_LENGTH = 50

# Cc control, Cf format (right-to-left marks, zero-width joiners), Cs surrogate, Co private, Cn unassigned,
# Zl and Zp line and paragraph separators: all invisible or misleading in a list of names.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean_name(name: str, *, field: str = "name", max_length: int = MAX_NAME_LENGTH) -> str:
    """Return the name in NFC with outer spaces removed.

    Raises:
        InvalidName: empty, longer than `max_length` characters, or holding invisible or control characters.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    if not cleaned:
        raise InvalidName("Give it a name: it is empty.", field=field)
    if len(cleaned) > max_length:
        raise InvalidName(
            f"This name has {len(cleaned)} characters; {max_length} is the most. Choose a shorter one.",
            field=field,
            limit=max_length,
        )
    for position, character in enumerate(cleaned, start=1):
        if unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise InvalidName(
                f"Character {position} of this name (U+{ord(character):04X}) is invisible or a control character. "
                "Remove it.",
                field=field,
                position=position,
            )
    return cleaned
