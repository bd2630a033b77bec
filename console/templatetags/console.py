"""Small pieces of markup that many pages share: icons, form fields, states in words, durations."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from django import forms, template
from django.forms.boundfield import BoundField
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from console.words import Wording, changes_of, duration, every_days, every_hours, layout, title_of, wording_of
from provisioning.selectors import OperationView
from provisioning.states import STEP_TITLES, StepKind

register = template.Library()

_ADDRESS = re.compile(r"(https?://[^\s<>\"]+)")


@register.simple_tag
def icon(name: str) -> SafeString:
    """An icon from our own sheet; it never carries meaning alone."""
    return format_html(
        '<svg class="icon" width="20" height="20" aria-hidden="true" focusable="false"><use href="{}#{}"/></svg>',
        static("console/icons.svg"),
        name,
    )


@register.simple_tag
def status(value: Any) -> SafeString:
    """A state as a coloured word; `value` is a phase, a verdict, or the state of an operation or step."""
    wording: Wording = wording_of(value)
    return format_html('<span class="status-word hue-{}">{}</span>', wording.hue, wording.word)


@register.filter
def word(value: Any) -> str:
    """The word for a state, kind or role."""
    return wording_of(value).word


@register.filter
def operation_title(operation: OperationView) -> str:
    """What an operation is called: by more than its kind, for a drill is no creation to whoever asked for it."""
    return title_of(operation.kind, is_drill=operation.drill_of is not None)


@register.filter
def changed(operation: OperationView) -> list[tuple[str, str]]:
    """What an operation changed about its cluster: title, and before → after."""
    return [] if operation.drill_of else changes_of(operation.changes)


@register.filter
def hue(value: Any) -> str:
    """The colour family of a state."""
    return wording_of(value).hue


@register.filter(name="duration")
def duration_filter(seconds: float | None) -> str:
    """Seconds for people: 0.4 s, 12 s, 2 min 5 s, 1 h 3 min; nothing for None."""
    return "" if seconds is None else duration(seconds)


@register.filter
def rhythm_hours(hours: int) -> str:
    """How often backups come round."""
    return every_hours(hours)


@register.filter
def rhythm_days(days: int) -> str:
    """How often drills come round."""
    return every_days(days)


@register.simple_tag
def layout_of(row: Any) -> str:
    """The layout of a backup or of a size."""
    return layout(row.brokers, row.partitions, row.replication_factor)


@register.filter
def with_links(text: str) -> SafeString:
    """Plain text with its web addresses made links, and nothing else: an e-mail address stays text."""
    parts = _ADDRESS.split(text)
    return format_html_join(
        "", "{}", ((format_html('<a href="{0}">{0}</a>', part) if i % 2 else part,) for i, part in enumerate(parts))
    )


@register.inclusion_tag("console/parts/field.html")
def field(bound: BoundField) -> dict[str, Any]:
    """A form field with its label, hint and errors, tied together for screen readers."""
    widget = bound.field.widget
    is_check = isinstance(widget, forms.CheckboxInput)
    is_group = isinstance(widget, forms.RadioSelect | forms.CheckboxSelectMultiple)
    classes = "form-select" if isinstance(widget, forms.Select) else "form-control"
    if is_check:
        classes = "form-check-input"
    if bound.errors:
        classes += " is-invalid"
    return {
        "bound": bound,
        "widget": bound.as_widget(attrs={"class": classes}),
        "is_check": is_check,
        "is_group": is_group,
    }


@register.filter
def ago(moment: datetime) -> str:
    """How long ago something was, to the minute."""
    return "just now" if timezone.now() - moment < timedelta(minutes=1) else f"{timesince(moment, depth=1)} ago"


@register.filter
def step_title(step: StepKind) -> str:
    """What a step does, in words."""
    return STEP_TITLES[step]


@register.filter
def took(operation: OperationView) -> float | None:
    """How many seconds an operation that is over took, from asking to its end."""
    if operation.finished_at is None:
        return None
    return (operation.finished_at - operation.created_at).total_seconds()
