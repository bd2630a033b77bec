"""What no wish stands for, and what the installation knows of itself: looked at and decided on by operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.views.decorators.http import require_POST

from common.errors import Conflict
from provisioning.models import Cluster, Installation, Leftover
from provisioning.services import installation, leftovers
from provisioning.states import Hold, LeftoverState
from tenants.admin import OperatorAdmin, operator_of

# What adopting would make, in the order in which one asks.
_ADOPTED = (
    "organization",
    "name",
    "stage",
    "region_id",
    "plan_type",
    "channel",
    "release",
    "partitions",
    "data_epoch",
    "data_source",
    "lifecycle",
    "hold",
    "spec_generation",
)


class EndedFilter(admin.SimpleListFilter):
    """The ledger keeps what has ended, out of sight."""

    title = "ended"
    parameter_name = "ended"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Only the exception needs a name."""
        return [("yes", "Only what has ended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Leftover]) -> QuerySet[Leftover]:
        """What has ended, or (by default) what has not; one entry's own page finds both."""
        if "/change/" in request.path:
            return queryset
        return queryset.exclude(ended_at=None) if self.value() else queryset.filter(ended_at=None)


@admin.register(Leftover)
class LeftoverAdmin(OperatorAdmin):
    """The ledger of what is in a region and no wish stands for, and of what is wished there and missing."""

    list_display = ("what", "state", "region", "organization", "age", "reason", "attempts", "error_message", "due_at")
    list_filter = ("state", "kind", "region", EndedFilter)
    search_fields = ("cluster_id", "reference", "organization__name", "reason")
    list_select_related = ("region", "organization")
    ordering = ("-found_at",)
    fields = readonly_fields = (
        "what",
        "state",
        "reason",
        "region",
        "organization",
        "age",
        "found_at",
        "since",
        "parts",
        "card_table",
        "attempts",
        "due_at",
        "error_message",
        "ended_at",
    )

    def get_urls(self) -> list[URLPattern]:
        """The two decisions, before the catch-all of the entry's own page."""
        wrap = self.admin_site.admin_view
        return [
            path(f"<uuid:leftover_id>/{name}/", wrap(require_POST(decide)), name=f"provisioning_leftover_{name}")
            for name, decide in (("adopt", self.adopt), ("remove", self.remove))
        ] + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What there is, with what adopting and what removing would do."""
        entry = self.get_object(request, object_id)
        foreseen = _foreseen(entry) if entry is not None and entry.state == LeftoverState.FOUND else {}
        return super().change_view(request, object_id, form_url, (extra_context or {}) | foreseen)

    def adopt(self, request: HttpRequest, leftover_id: UUID) -> HttpResponse:
        """Make the cluster's row again."""

        def decide(entry: Leftover) -> str:
            row = leftovers.adopt(actor=operator_of(request), leftover_id=entry.pk)
            sentence = f"“{row.name}” is a cluster of {row.organization} again. Its credentials have to be made anew."
            messages.success(request, sentence)
            return reverse("admin:provisioning_cluster_change", args=[row.pk])

        return self._decide(request, leftover_id, decide)

    def remove(self, request: HttpRequest, leftover_id: UUID) -> HttpResponse:
        """Have it removed."""

        def decide(entry: Leftover) -> str:
            leftovers.remove(actor=operator_of(request), leftover_id=entry.pk)
            messages.success(request, "It is removed as soon as the region allows; this page shows how far that is.")
            return reverse("admin:provisioning_leftover_change", args=[entry.pk])

        return self._decide(request, leftover_id, decide)

    @staticmethod
    def _decide(request: HttpRequest, leftover_id: UUID, decide: Callable[[Leftover], str]) -> HttpResponse:
        entry = Leftover.objects.filter(pk=leftover_id).first()
        if entry is None:
            raise Http404
        try:
            return redirect(decide(entry))
        except Conflict as error:
            messages.error(request, error.message)
            return redirect("admin:provisioning_leftover_change", leftover_id)

    @admin.display(ordering="kind")
    def what(self, entry: Leftover) -> str:
        """Which thing, by its id."""
        return str(entry)

    @admin.display(ordering="since")
    def age(self, entry: Leftover) -> str:
        """How long it has been there, as far as that is known."""
        return timesince(entry.since or entry.found_at, depth=1)

    @admin.display(description="what there is")
    def parts(self, entry: Leftover) -> SafeString | str:
        """Processes, folders and ports."""
        nothing = "Nothing." if entry.state == LeftoverState.MISSING else "Nothing was looked for."
        return _listed(entry.found) or nothing

    @admin.display(description="its card")
    def card_table(self, entry: Leftover) -> SafeString | str:
        """What lay beside the engine about whose it is."""
        return _table(sorted(entry.card.items())) or "There is none."


def _foreseen(entry: Leftover) -> dict[str, Any]:
    row, refusal = leftovers.adoption_of(entry)
    adoption = [(name.removesuffix("_id"), getattr(row, name)) for name in _ADOPTED] if row else []
    return {"adoption": adoption, "refusal": refusal, "parts": entry.found}


@admin.register(Installation)
class InstallationAdmin(OperatorAdmin):
    """What this database knows of itself, and what follows when it is an older copy than the regions have seen."""

    list_display = ("__str__", "state", "held", "lost_credentials", "beat")
    fields = readonly_fields = ("state", "set_back_at", "held", "lost_credentials", "credential_table", "beat")

    def get_urls(self) -> list[URLPattern]:
        """The acknowledgement, before the catch-all of the row's own page."""
        acknowledge = self.admin_site.admin_view(require_POST(self.acknowledge))
        return [path("acknowledge/", acknowledge, name="provisioning_installation_acknowledge"), *super().get_urls()]

    def acknowledge(self, request: HttpRequest) -> HttpResponse:
        """An operator has read the report."""
        row = installation.report()
        if row is None:
            raise Http404
        if row.set_back_at is None:
            messages.info(request, "There is nothing to acknowledge: the database is not set back.")
        else:
            installation.acknowledge(actor=operator_of(request))
            messages.success(request, "Removals go on. Clusters that differ stay held until each was looked at.")
        return redirect("admin:provisioning_installation_change", row.pk)

    @admin.display
    def state(self, row: Installation) -> str:
        """Whether all is as usual."""
        if row.set_back_at is None:
            return "As usual: no region has seen a later database than this."
        return "Set back: a region has seen a later database than this. It was restored from an older copy."

    @admin.display(description="clusters on hold")
    def held(self, row: Installation) -> SafeString | str:
        """How many wait for an operator, with the way to them."""
        count = Cluster.objects.live().exclude(hold=Hold.NONE.value).count()
        address = reverse("admin:provisioning_cluster_changelist")
        return format_html('<a href="{}?hold=any">{}</a>', address, count) if count else "0"

    @admin.display(description="credentials that differ")
    def lost_credentials(self, row: Installation) -> int:
        """How many were issued or revoked since the copy was made."""
        return len(row.report.get("credentials", ()))

    @admin.display(description="which those are")
    def credential_table(self, row: Installation) -> SafeString | str:
        """Whose they were: who lost one needs a new one, and what is live again has to be revoked once more."""
        names = ("state", "client_id", "secret", "name", "organization", "cluster", "created_at", "revoked_at")
        lost = row.report.get("credentials", ())
        return _table([[one.get(name, "") for name in names] for one in lost], head=names) or "None."


def _listed(parts: Iterable[str]) -> SafeString:
    lines = format_html_join("", "<li>{}</li>", ((part,) for part in parts))
    return format_html("<ul>{}</ul>", lines) if lines else lines


def _table(rows: Iterable[Iterable[Any]], *, head: Iterable[str] = ()) -> SafeString:
    heading = format_html_join("", "<th>{}</th>", ((name.replace("_", " "),) for name in head))
    lines = format_html_join(
        "", "<tr>{}</tr>", ((format_html_join("", "<td>{}</td>", ((cell,) for cell in row)),) for row in rows)
    )
    return format_html("<table><tr>{}</tr>{}</table>", heading, lines) if lines else lines
