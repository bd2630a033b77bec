"""Shapes of what people type. Rules live in the services; a form only sees to it that their arguments are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django import forms

from console.words import ROLE_NOTES, STAGE_NOTES, every_days, every_hours, layout, wording_of
from provisioning.selectors import BackupView
from provisioning.spec import ClusterRequest
from tenants.naming import MAX_NAME_LENGTH
from tenants.roles import Permission, Role

# Longer than any name may be, so that the service's own sentence about length is reached.
_TYPED_LENGTH = 10 * MAX_NAME_LENGTH


def name_field(label: str = "Name", help_text: str = "", placeholder: str = "") -> forms.CharField:
    """A name as typed; what a name may look like is `tenants.naming`'s business."""
    widget = forms.TextInput(attrs={"autocomplete": "off", "placeholder": placeholder})
    return forms.CharField(
        label=label,
        max_length=_TYPED_LENGTH,
        help_text=help_text,
        strip=False,
        widget=widget,
        error_messages={"required": "Give it a name: it is empty."},
    )


class OrganizationForm(forms.Form):
    """The name of an organization."""

    name = name_field("Name of the organization", "Your company or team. Members see it; you can change it later.")


class ClusterForm(forms.Form):
    """All that a new cluster needs. Choices come from the catalogue; with a backup, only what fits it."""

    name = name_field(help_text=f"Up to {MAX_NAME_LENGTH} characters; you can change it later.", placeholder="orders")
    stage = forms.ChoiceField(widget=forms.RadioSelect, choices=list(STAGE_NOTES.items()), initial="dev")
    plan_type = forms.ChoiceField(
        label="Size",
        widget=forms.RadioSelect,
        help_text="The number of partitions is fixed when a cluster is created.",
    )
    release = forms.ChoiceField(label="Engine release", help_text="")
    region = forms.ChoiceField(required=False)
    from_backup = forms.UUIDField(required=False, widget=forms.HiddenInput)

    def __init__(
        self, *args: Any, offer: Any, licence_note: Any, backup: BackupView | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        fits = _Fitting(backup)
        self._choose("region", _places(offer.regions))
        self._choose("plan_type", [(row.slug, size_label(row)) for row in offer.plan_types if fits.size(row)])
        self._choose("release", list(_releases(offer.channels, fits)))
        for name, value in fits.initial.items():
            options = [option for option, _ in getattr(self.fields[name], "choices", ())]
            if value in options or not options:
                self.initial[name] = value
        # The first licence sentence stands under the field from the start; the plan shows the chosen one's.
        self.licences: dict[str, str] = {
            release.version: licence_note(release.licence)
            for channel in offer.channels
            for release in channel.releases.all()
        }

    def request(self) -> ClusterRequest:
        """The wish, from valid data."""
        data = self.cleaned_data
        channel, release = data["release"].split("/")
        # "" is any region; what has an equals sign is one of their labels.
        region, label = ("", data["region"]) if "=" in data["region"] else (data["region"], "")
        return ClusterRequest(
            data["name"],
            data["stage"],
            region,
            data["plan_type"],
            channel,
            release,
            data["from_backup"],
            labels=(label,) if label else (),
        )

    @property
    def lacks_choice(self) -> bool:
        """Whether nothing on offer fits."""
        names = ("region", "plan_type", "release")
        return not all(getattr(self.fields[name], "choices", ()) for name in names)

    def _choose(self, name: str, choices: list[tuple[str, str]]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = choices
        field.initial = field.initial or (choices[0][0] if choices else None)


class _Fitting:
    """What a new cluster may be: anything on offer, or what a backup's data can be started with."""

    def __init__(self, backup: BackupView | None) -> None:
        self._row = backup.row if backup else None

    @property
    def initial(self) -> dict[str, Any]:
        if self._row is None:
            return {}
        source = self._row.cluster
        return {
            "name": f"{source.name[: MAX_NAME_LENGTH - 5]} copy",
            "stage": source.stage,
            "plan_type": source.plan_type_id,
            "release": f"{source.channel_id}/{self._row.release_id}",
            "region": source.region_id,
            "from_backup": self._row.pk,
        }

    def size(self, size: Any) -> bool:
        return self._row is None or size.partitions == self._row.partitions

    def release(self, release: Any) -> bool:
        readable = (release.version, *release.upgrades_from)
        return release.is_offered and (self._row is None or self._row.release_id in readable)

    def note(self, release: Any) -> str:
        is_rehearsal = self._row is not None and release.version != self._row.release_id
        return ", to try the upgrade out" if is_rehearsal else ""


def _places(regions: Sequence[Any]) -> list[tuple[str, str]]:
    """The regions; where there are several, also any of them, and any with something in common."""
    named = [(row.slug, f"{row.name}{_waiting(row)}") for row in regions]
    if len(regions) < 2:
        return named
    labels = sorted({label for row in regions for label in row.labels})
    return [("", "Wherever there is most room"), *((label, f"Any region with {label}") for label in labels), *named]


def _waiting(region: Any) -> str:
    if region.maintenance_since is not None:
        return " (in maintenance: the cluster waits for its end)"
    return " (does not answer at present: the cluster waits)" if region.silent_since is not None else ""


def size_label(row: Any) -> str:
    """A size with all that it is: for each broker, where there are several."""
    each = " each" if row.brokers > 1 else ""
    shape = layout(row.brokers, row.partitions, row.replication_factor)
    return f"{row.name}: {shape}, {row.memory_mib} MiB memory and {row.disk_mib} MiB disk{each}"


def _releases(channels: Iterable[Any], fits: _Fitting) -> Iterable[tuple[str, str]]:
    """Channel and release as one choice; each channel's default first."""
    for channel in channels:
        default = channel.default_release_id
        for release in sorted(channel.releases.all(), key=lambda row: (row.version != default, row.version)):
            if fits.release(release):
                word = " (default)" if release.version == default else fits.note(release)
                yield f"{channel.slug}/{release.version}", f"{channel.name}: Zeebe {release.version}{word}"


class ClusterSettingsForm(forms.Form):
    """What can be changed about a cluster without touching its engine."""

    name = name_field()
    stage = forms.ChoiceField(widget=forms.RadioSelect, choices=list(STAGE_NOTES.items()))
    is_protected = forms.BooleanField(
        label="Protect against deletion",
        required=False,
        help_text="A protected cluster cannot be deleted until somebody switches this off.",
    )
    generation = forms.IntegerField(widget=forms.HiddenInput)


class ConfirmForm(forms.Form):
    """A change to confirm: the generation the plan was shown for."""

    generation = forms.IntegerField(widget=forms.HiddenInput)


class ChoiceForm(ConfirmForm):
    """A change that needs a word first: one thing out of some, which may be none."""

    chosen: ClassVar[str]

    def __init__(self, *args: Any, choices: Iterable[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields[self.chosen]
        assert isinstance(field, forms.ChoiceField)
        self.choices = field.choices = list(choices)
        field.initial = self.choices[0][0] if self.choices else None

    def wish(self) -> dict[str, Any]:
        """What the service is told besides the cluster: from valid data, or before anything was chosen."""
        given = self.cleaned_data if self.is_bound else {name: field.initial for name, field in self.fields.items()}
        return {name: value for name, value in given.items() if name != "generation"}


class ResizeForm(ChoiceForm):
    """Which size."""

    chosen = "plan_type"
    plan_type = forms.ChoiceField(label="Size", widget=forms.RadioSelect)


class UpgradeForm(ChoiceForm):
    """Which release, and whether without a backup."""

    chosen = "release"
    release = forms.ChoiceField(label="Engine release", widget=forms.RadioSelect)
    without_backup = forms.BooleanField(
        label="Do not take a backup first",
        required=False,
        initial=False,
        help_text="Then no cluster of the former release can be started from it later.",
    )


_HOURS = (0, 1, 6, 12, 24, 168)
_DAYS = (0, 1, 7, 30)


class ScheduleForm(ConfirmForm):
    """How often a cluster is backed up, how many of those backups are kept, how often one is proven."""

    backup_every_hours = forms.TypedChoiceField(label="Back up", coerce=int)
    backups_kept = forms.IntegerField(
        label="Keep",
        min_value=1,
        help_text="How many scheduled backups are kept; older ones are removed. Those you ask for stay.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
    drill_every_days = forms.TypedChoiceField(
        label="Prove the newest backup",
        coerce=int,
        help_text="A throw-away copy is started on it, measured and removed.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._choose("backup_every_hours", _HOURS, every_hours)
        self._choose("drill_every_days", _DAYS, every_days)

    def _choose(self, name: str, usual: Iterable[int], word: Callable[[int], str]) -> None:
        """The usual rhythms, and the one that was set over the REST interface."""
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(count, word(count)) for count in sorted({*usual, self.initial.get(name, 0)})]


class TypedNameForm(ConfirmForm):
    """What cannot be undone: the cluster's name, typed."""

    typed_name = forms.CharField(
        label="Type the cluster’s name to confirm",
        max_length=_TYPED_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        error_messages={"required": "Type the cluster’s name to confirm."},
    )
    deed = "delete it"

    def __init__(self, *args: Any, expected_name: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expected_name = expected_name

    def clean_typed_name(self) -> str:
        """The very name."""
        typed: str = self.cleaned_data["typed_name"]
        if typed.strip() != self._expected_name:
            raise forms.ValidationError(f"This is not the cluster’s name. Type “{self._expected_name}” to {self.deed}.")
        return typed


class RestoreForm(TypedNameForm):
    """Putting a backup in place of a cluster's data."""

    deed = "replace its data"


class DeletionForm(TypedNameForm):
    """Deleting: the cluster's name, typed, and whether to skip the undo window."""

    purge = forms.BooleanField(
        label="Remove everything at once, without an undo window",
        required=False,
        help_text="Its backups are removed, too. This cannot be undone.",
    )


_LIFETIMES = [("", "Never"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year")]


class CredentialForm(forms.Form):
    """A credential for one cluster."""

    name = name_field(help_text="Which program will use it, such as “order workers”.", placeholder="order workers")
    lifetime_days = forms.ChoiceField(label="Expires", choices=_LIFETIMES, required=False)

    def expires_at(self) -> datetime | None:
        """When it ends, counted from now."""
        days = self.cleaned_data["lifetime_days"]
        return datetime.now(UTC) + timedelta(days=int(days)) if days else None


class ApiCredentialForm(CredentialForm):
    """A credential for our REST API, with what it may do."""

    scopes = forms.MultipleChoiceField(
        label="May do",
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one thing that it may do."},
    )

    def __init__(self, *args: Any, scopes: Iterable[Permission], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["scopes"]
        assert isinstance(field, forms.MultipleChoiceField)
        field.choices = [(scope.value, scope.value) for scope in scopes]


class ExpiryForm(forms.Form):
    """A new end for a credential; the empty day means none."""

    expires_on = forms.DateField(
        label="Expires on",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        help_text="At the end of that day (UTC). Leave it empty for no end.",
        error_messages={"invalid": "Give a day such as 2030-12-31."},
    )

    def expires_at(self) -> datetime | None:
        """The first moment after that day."""
        day = self.cleaned_data["expires_on"]
        return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) if day else None


class InvitationForm(forms.Form):
    """Whom to invite, and as what."""

    email = forms.CharField(
        label="E-mail address",
        max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "off", "placeholder": "name@example.com"}),
        error_messages={"required": "Whom do you invite? Give an e-mail address."},
    )
    role = forms.ChoiceField(widget=forms.RadioSelect, initial=Role.DEVELOPER.value)

    def __init__(self, *args: Any, roles: Iterable[Role], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["role"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(role.value, f"{wording_of(role).word}: {ROLE_NOTES[role]}") for role in Role if role in roles]


class RoleForm(forms.Form):
    """A member's new role."""

    role = forms.ChoiceField(choices=[(role.value, wording_of(role).word) for role in Role])
