"""Do a request once, however often it is sent: the first answer is kept and given again.

The key's row is inserted in the transaction of the change itself. A second request with the same key waits at the
unique index until the first one is through: then it finds the answer, or, when the first one failed and left nothing,
the free place. So only answers to changes that happened are kept, and a request that failed may be corrected and sent
again under its key.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models.functions import Now

from common.errors import InvalidRequest
from tenants.actor import Actor
from tenants.errors import IdempotencyMismatch
from tenants.models import IdempotencyRecord

MAX_KEY_LENGTH = 255

# Longer than any client goes on retrying; Stripe, whose clients ours resemble, keeps keys for a day.
KEEP_FOR = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of an answer: its body as it was sent, except for secrets, which were taken out before."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


def fingerprint(method: str, path: str, body: Any) -> str:
    """What makes two requests the same: verb, path with its query, and the body's meaning (not its spelling)."""
    meaning = json.dumps([method, path, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(meaning.encode()).hexdigest()


def begin(*, actor: Actor, key: str, fingerprint: str) -> UUID | Answer:
    """Reserve the key, or return the answer that was given under it. Waits while another request holds it.

    One statement, two when the key was used. The reservation lives and dies with the caller's transaction.

    Raises:
        InvalidRequest: empty, too long, or not plain printable characters.
        IdempotencyMismatch: the key was used for another request.
    """
    if not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"An idempotency key has 1 to {MAX_KEY_LENGTH} printable ASCII characters.", field="Idempotency-Key"
        )
    place: dict[str, Any] = {
        "organization_id": actor.organization_id,
        "principal_id": actor.principal_id,
        "key": key,
    }
    mine = IdempotencyRecord(id=uuid.uuid4(), fingerprint=fingerprint, **place)
    IdempotencyRecord.objects.bulk_create([mine], ignore_conflicts=True)
    found = IdempotencyRecord.objects.get(**place)
    if found.pk == mine.pk:
        return mine.pk
    if found.fingerprint != fingerprint or found.status is None:
        raise IdempotencyMismatch(
            "This idempotency key was used before for another request. Use a new key for each new request."
        )
    return Answer(found.status, found.body or "", found.headers)


def finish(record_id: UUID, answer: Answer) -> None:
    """Keep the answer under the reserved key."""
    IdempotencyRecord.objects.filter(pk=record_id).update(
        status=answer.status, body=answer.body, headers=dict(answer.headers)
    )


def forget_old() -> int:
    """Remove keys that nobody retries any more; the number removed. Run by the clock, as the system role."""
    return IdempotencyRecord.objects.filter(created_at__lt=Now() - KEEP_FOR).delete()[0]
