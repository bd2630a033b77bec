"""The Kubernetes client: what the region refuses, in our words; and what it does when the region is not well."""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import pytest

from common.errors import ControlPlaneError, Permanent, Temporary
from provisioning.backends.engine.door import Limits
from provisioning.backends.kubernetes import api as api_module
from provisioning.backends.kubernetes import watch as watch_module
from provisioning.backends.kubernetes.budget import FAILURES_TO_OPEN, OPEN_SECONDS, Gate
from provisioning.backends.kubernetes.errors import Changed, Expired, Invalid, Missing, refusal
from provisioning.backends.kubernetes.healing import AGAIN_SECONDS, MAX_HEALS, WITHIN_SECONDS, Healing
from provisioning.backends.kubernetes.kinds import CONFIG_MAP, NAMESPACE, POD, Kind
from provisioning.backends.kubernetes.settings import Budget
from provisioning.backends.kubernetes.system import TokenKeys
from provisioning.backends.kubernetes.watch import Reflector, Watch
from provisioning.errors import NoCapacity, RegionUnreachable
from tests.provisioning.backends.apiserver import HANG_SECONDS, Reply, client_of, kubeconfig, scripted

UNKNOWN = Reply(401, {"kind": "Status", "message": "Unauthorized"})
TERMINATING = {"reason": "Forbidden", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}


@pytest.mark.parametrize(
    ("status", "body", "headers", "error", "words"),
    [
        (401, {}, {}, RegionUnreachable, "does not accept our credentials"),
        (403, {"message": 'pods "a" is forbidden: User "us" cannot'}, {}, Permanent, "does not allow us"),
        (403, {"message": "exceeded quota: engine, requested: pods=1"}, {}, NoCapacity, "quota does not allow"),
        (403, {"message": "violates PodSecurity"}, {}, Permanent, "A rule of the region refuses"),
        (403, TERMINATING, {}, Temporary, "is being removed"),
        (404, {}, {}, Missing, "has no ConfigMap x"),
        (409, {}, {}, Changed, "changed at the same time"),
        (410, {}, {}, Expired, "history is gone"),
        (422, {"message": "spec.x: Invalid value"}, {}, Invalid, "refuses the ConfigMap x"),
        (429, {}, {"Retry-After": "7"}, Temporary, "is busy"),
        (503, {}, {"Retry-After": "nonsense"}, Temporary, "is busy"),
        (500, b"not even JSON", {}, Temporary, "has trouble"),
    ],
)
def test_what_a_region_refuses_is_told_in_our_words(
    status: int, body: Any, headers: dict[str, str], error: type[ControlPlaneError], words: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = refusal(status, content, headers, "ConfigMap x")

    assert type(found) is error
    assert words in found.message
    assert found.message.endswith(".")
    # What the server says may hold anything: it is for our logs.
    assert "Invalid value" not in found.message


def test_a_region_that_is_busy_is_left_alone_for_as_long_as_it_asks(tmp_path: Path) -> None:
    with scripted(Reply(429, headers={"Retry-After": "7"})) as server:
        api = client_of(kubeconfig(tmp_path, server.port))
        with pytest.raises(Temporary) as first:
            api.get(CONFIG_MAP, "a", "x")
        with pytest.raises(Temporary, match="asked for a pause") as second:
            api.get(CONFIG_MAP, "a", "x")

        assert first.value.retry_after_seconds == 7
        assert 0 < second.value.retry_after_seconds <= 7
        assert len(server.asked) == 1


def test_refused_credentials_are_read_anew_once(tmp_path: Path) -> None:
    with scripted(Reply(), UNKNOWN, Reply(), UNKNOWN) as server:
        path = kubeconfig(tmp_path, server.port)
        api = client_of(path)
        api.get(CONFIG_MAP, "a", "x")
        kubeconfig(tmp_path, server.port, token="second")
        assert api.get(CONFIG_MAP, "a", "x") == {}
        with pytest.raises(RegionUnreachable, match="does not accept our credentials"):
            api.get(CONFIG_MAP, "a", "x")

    tokens = [asked.authorization for asked in server.asked]
    assert tokens == ["Bearer first", "Bearer first", "Bearer second", "Bearer second", "Bearer second"]


def test_credentials_that_are_missing_make_the_region_unreachable(tmp_path: Path) -> None:
    with pytest.raises(RegionUnreachable, match="cannot be read"):
        client_of(tmp_path / "nothing.yaml").get(CONFIG_MAP, "a", "x")


def test_a_region_that_is_down_is_not_asked_all_the_time_and_another_one_is(tmp_path: Path) -> None:
    now = [0.0]
    gate = Gate(Budget(), clock=lambda: now[0])
    down = client_of(kubeconfig(tmp_path, 1), gate)
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(RegionUnreachable):
            down.get(CONFIG_MAP, "a", "x")
    asked = down.requests
    with pytest.raises(RegionUnreachable) as refused:
        down.get(CONFIG_MAP, "a", "x")
    assert down.requests == asked
    assert refused.value.retry_after_seconds == OPEN_SECONDS

    now[0] += OPEN_SECONDS + 1
    with pytest.raises(RegionUnreachable):
        down.get(CONFIG_MAP, "a", "x")
    assert down.requests == asked + 1
    with scripted(Reply()) as server:
        other = tmp_path / "other"
        other.mkdir()
        assert client_of(kubeconfig(other, server.port)).get(CONFIG_MAP, "a", "x") == {}


def test_a_process_asks_no_faster_than_its_budget() -> None:
    now, slept = [0.0], [0.0]

    def sleep(seconds: float) -> None:
        slept[0] += seconds
        now[0] += seconds

    gate = Gate(Budget(per_second=10, burst=5), clock=lambda: now[0], sleep=sleep)
    for _ in range(25):
        gate.take_token()

    assert 1.9 <= slept[0] <= 2.1


def test_a_removal_of_what_is_another_object_by_now_is_over(tmp_path: Path) -> None:
    gone = Reply(404, {"reason": "NotFound"})
    another = Reply(409, {"reason": "Conflict", "message": "Precondition failed: UID in precondition: a, in object: b"})
    with scripted(gone, another) as server:
        api = client_of(kubeconfig(tmp_path, server.port))
        for _ in range(2):
            api.delete(CONFIG_MAP, "a", "x", uid="a")

    assert b'"preconditions": {"uid": "a"}' in server.asked[1].body


def test_what_was_changed_since_it_was_read_is_not_removed(tmp_path: Path) -> None:
    """Somebody may have taken our labels from it; another object of its name is over all the same."""
    said = "Precondition failed: {0} in precondition: a, {0} in object meta: b"
    changed, another = (
        Reply(409, {"reason": "Conflict", "message": said.format(which)}) for which in ("ResourceVersion", "UID")
    )
    with scripted(changed, another) as server:
        api = client_of(kubeconfig(tmp_path, server.port))
        with pytest.raises(Changed):
            api.delete(CONFIG_MAP, "a", "x", uid="a", version="7")
        api.delete(CONFIG_MAP, "a", "x", uid="a", version="7")

    assert b'"preconditions": {"uid": "a", "resourceVersion": "7"}' in server.asked[0].body


def test_a_list_goes_on_until_its_end(tmp_path: Path) -> None:
    pages = (
        Reply(body={"metadata": {"resourceVersion": "5", "continue": "c"}, "items": [{"metadata": {"name": "a"}}]}),
        Reply(body={"metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "b"}}]}),
    )
    with scripted(*pages) as server:
        listing = client_of(kubeconfig(tmp_path, server.port)).find(POD, selector="x=y", is_metadata_only=True)

    assert [one["metadata"]["name"] for one in listing.items] == ["a", "b"]
    assert listing.resource_version == "5"
    assert "continue=c" in server.asked[1].path


def test_a_broker_that_the_region_does_not_reach_is_silent_and_its_own_refusal_is_an_answer(tmp_path: Path) -> None:
    limits = Limits(connect=8, read=8)
    unreached = Reply(503, {"kind": "Status", "message": "error trying to reach service"})
    with scripted(unreached, Reply(503, {"status": "DOWN"}), Reply(body={"1": {}})) as server:
        api = client_of(kubeconfig(tmp_path, server.port))
        answers = [api.ask_pod("ns", "broker-0", 9600, "GET", "actuator/x", None, limits) for _ in range(3)]

    assert answers[0] is None
    assert answers[1] is not None
    assert answers[1].status == 503
    assert answers[2] is not None
    assert answers[2].content == {"1": {}}
    assert server.asked[0].path == "/api/v1/namespaces/ns/pods/broker-0:9600/proxy/actuator/x"


def test_an_engine_that_hangs_is_silent_and_its_region_is_not(tmp_path: Path) -> None:
    limits = Limits(connect=0.2, read=0.2)
    with scripted(Reply(lines=(), hangs=True)) as server:
        api = client_of(kubeconfig(tmp_path, server.port))
        for _ in range(FAILURES_TO_OPEN + 1):
            assert api.ask_pod("ns", "broker-0", 9600, "GET", "actuator/x", None, limits) is None
        server.script = [Reply()]
        assert api.get(CONFIG_MAP, "a", "x") == {}


def test_what_the_region_refuses_is_not_taken_for_the_engines_word(tmp_path: Path) -> None:
    forbidden = Reply(403, {"kind": "Status", "message": 'pods "a" is forbidden: User "us" cannot create'})
    with scripted(UNKNOWN, Reply(409, {"message": "engine"}), forbidden) as server:
        api = client_of(kubeconfig(tmp_path, server.port))
        answer = api.ask_pod("ns", "broker-0", 9600, "POST", "actuator/x", {}, Limits(8, 8))
        with pytest.raises(Permanent, match="does not allow us"):
            api.ask_pod("ns", "broker-0", 9600, "POST", "actuator/x", {}, Limits(8, 8))

    assert answer is not None
    assert answer.status == 409


# --- the watch --------------------------------------------------------------------------------------------------------


def cluster(name: str) -> str:
    """Whose the object with this name is."""
    return str(uuid5(NAMESPACE_OID, name))


def one(name: str, version: str) -> dict[str, Any]:
    labels = {"flowplane.dev/cluster": cluster(name)}
    return {"metadata": {"name": name, "uid": name, "resourceVersion": version, "labels": labels}}


def listed(version: str, *names: str) -> Reply:
    return Reply(body={"metadata": {"resourceVersion": version}, "items": [one(name, "1") for name in names]})


def take(api: Any, count: int) -> list[str]:
    """The first ids that a watch of one kind tells of."""
    changes = Watch(api, (NAMESPACE,), lambda _: None).run()
    found = [str(next(changes)) for _ in range(count)]
    changes.close()
    return found


@contextmanager
def reflecting(
    folder: Path, kind: Kind, start: Reply, *events: tuple[str, dict[str, Any]], going: set[UUID] | None = None
) -> Iterator[queue.SimpleQueue[Any]]:
    """What a reflector tells of that gets this list, and after it these events."""
    lines = tuple({"type": event, "object": found} for event, found in events)
    said: queue.SimpleQueue[Any] = queue.SimpleQueue()
    over = threading.Event()
    with scripted(start, Reply(lines=lines, hangs=True)) as server:
        client = client_of(kubeconfig(folder, server.port))
        reflector = Reflector(client, kind, said, set() if going is None else going)
        threading.Thread(target=reflector.run, args=[over], daemon=True).start()
        yield said
        over.set()


def test_a_watch_tells_of_all_there_is_and_of_what_changes(tmp_path: Path) -> None:
    change = {"type": "MODIFIED", "object": one("b", "7")}
    with scripted(listed("5", "a"), Reply(lines=(change,), hangs=True)) as server:
        assert take(client_of(kubeconfig(tmp_path, server.port)), 2) == [cluster("a"), cluster("b")]
        assert "resourceVersion=5" in server.asked[1].path
        assert "allowWatchBookmarks=true" in server.asked[1].path


def test_a_silent_watch_is_opened_again_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "SILENCE_SECONDS", 0.5)
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}
    missed = {"type": "DELETED", "object": one("b", "10")}
    # A watch that falls silent before its bookmark was read begins where it began.
    watches = {
        "resourceVersion=5": Reply(lines=(bookmark,), hangs=True),
        "resourceVersion=9": Reply(lines=(missed,), hangs=True),
    }
    with scripted(listed("5", "a"), known=watches) as server:
        began = time.monotonic()
        assert take(client_of(kubeconfig(tmp_path, server.port)), 2) == [cluster("a"), cluster("b")]
        assert time.monotonic() - began < HANG_SECONDS
        assert any("resourceVersion=9" in asked.path for asked in server.asked)


def test_a_watch_whose_credentials_are_refused_goes_on_with_new_ones(tmp_path: Path) -> None:
    """It lists once only, so nothing else would ever read them anew."""
    change = {"type": "MODIFIED", "object": one("b", "7")}
    with scripted(Reply(), listed("5", "a"), UNKNOWN, Reply(lines=(change,), hangs=True)) as server:
        api = client_of(kubeconfig(tmp_path, server.port))
        api.get(CONFIG_MAP, "a", "x")
        kubeconfig(tmp_path, server.port, token="second")
        assert take(api, 2) == [cluster("a"), cluster("b")]

    tokens = [asked.authorization for asked in server.asked]
    assert tokens == ["Bearer first", "Bearer first", "Bearer first", "Bearer second"]
    assert all("resourceVersion=5" in asked.path for asked in server.asked[2:])


class Silenced(Exception):
    """The watch has said that it hears the region no more."""


def test_a_region_is_heard_until_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "HEARING_SECONDS", 0.05)
    monkeypatch.setattr(api_module, "SILENCE_SECONDS", 0.5)
    said: list[float] = []

    def hears(age_seconds: float) -> None:
        said.append(age_seconds)
        if len(said) > 1 and said[-2] < said[-1] == math.inf:
            raise Silenced

    silent, change = Reply(lines=(), hangs=True), {"type": "MODIFIED", "object": one("b", "7")}
    with scripted(listed("5", "a"), silent, Reply(lines=(change,), hangs=True)) as server:
        watch = Watch(client_of(kubeconfig(tmp_path, server.port)), (NAMESPACE,), hears)
        assert watch.age_seconds == math.inf
        changes = watch.run()
        assert str(next(changes)) == cluster("a")
        assert str(next(changes)) == cluster("b")
        assert 0 <= said[-1] < 5
        monkeypatch.setattr(watch_module, "SILENCE_SECONDS", 0.5)
        with pytest.raises(Silenced):
            next(changes)


def test_a_region_of_which_one_kind_was_never_listed_is_not_heard(tmp_path: Path) -> None:
    with scripted(listed("5", "a"), Reply(lines=(), hangs=True)) as server:
        watch = Watch(client_of(kubeconfig(tmp_path, server.port)), (NAMESPACE, POD), lambda _: None)
        changes = watch.run()
        assert str(next(changes)) == cluster("a")
        while min(watch.ages_seconds.values()) == math.inf:
            time.sleep(0.01)
        assert watch.age_seconds == math.inf
        changes.close()


def test_a_history_that_is_gone_is_listed_once_and_what_vanished_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioning.backends.kubernetes.watch.JITTER_SECONDS", 0.0)
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}
    script = (listed("5", "a", "b"), Reply(lines=(gone,)), listed("50", "b", "c"), Reply(lines=(), hangs=True))
    with scripted(*script) as server:
        assert set(take(client_of(kubeconfig(tmp_path, server.port)), 3)) == {cluster("a"), cluster("b"), cluster("c")}
        lists = [asked for asked in server.asked if "watch=true" not in asked.path]
        assert len(lists) == 2


def test_a_reflector_that_dies_ends_the_watch(tmp_path: Path) -> None:
    refused, threads = Reply(403, {"message": 'is forbidden: User "us" cannot list'}), threading.active_count()
    with scripted(refused) as server, pytest.raises(Permanent, match="does not allow us"):
        take(client_of(kubeconfig(tmp_path, server.port)), 1)
    with scripted(listed("5", "a"), Reply(lines=({"no": "event"},), hangs=True)) as server:
        changes = Watch(client_of(kubeconfig(tmp_path, server.port)), (NAMESPACE,), lambda _: None).run()
        next(changes)
        with pytest.raises(RuntimeError, match="reflector"):
            next(changes)
    assert threading.active_count() < threads + 50


def test_what_goes_with_its_namespace_is_no_news(tmp_path: Path) -> None:
    """A removal would be woken some twenty times, and each turn could only ask whether it is over."""
    going: set[UUID] = set()
    leaving = one("a", "6")
    leaving["metadata"]["deletionTimestamp"] = "2026-11-29T12:00:00Z"

    def told(kind: Kind, *events: tuple[str, dict[str, Any]]) -> list[str]:
        """What a reflector tells of after its list, until it has heard of `b`."""
        last = ("MODIFIED", one("b", "9"))
        with reflecting(tmp_path, kind, listed("5", "a"), *events, last, going=going) as said:
            assert str(said.get()) == cluster("a")
            found = [str(said.get())]
            while found[-1] != cluster("b"):
                found.append(str(said.get()))
        return found

    assert told(NAMESPACE, ("MODIFIED", leaving)) == [cluster("a"), cluster("b")]
    assert told(POD, ("MODIFIED", one("a", "7")), ("DELETED", one("a", "8"))) == [cluster("b")]
    assert told(NAMESPACE, ("DELETED", leaving)) == [cluster("a"), cluster("b")]
    assert told(POD, ("MODIFIED", one("a", "7"))) == [cluster("a"), cluster("b")]


def test_that_a_namespace_goes_which_we_asked_to_go_is_no_news_until_it_is_gone(tmp_path: Path) -> None:
    there, leaving = one("a", "6"), one("a", "7")
    asked_to_go = {"annotations": {"flowplane.dev/epoch": "2", "flowplane.dev/removing": "true"}}
    there["metadata"]["annotations"] = {"flowplane.dev/epoch": "1"}
    leaving["metadata"] |= asked_to_go | {"deletionTimestamp": "2026-11-29T12:00:00Z"}
    asked = leaving | {"metadata": {**there["metadata"], **asked_to_go}}
    start = Reply(body={"metadata": {"resourceVersion": "6"}, "items": [there]})
    steps = (("MODIFIED", asked), ("MODIFIED", leaving), ("MODIFIED", one("b", "8")), ("DELETED", leaving))
    going = set[UUID]()
    with reflecting(tmp_path, NAMESPACE, start, *steps[:3], going=going) as said:
        assert [str(said.get()) for _ in range(2)] == [cluster("a"), cluster("b")]
        assert going == {UUID(cluster("a"))}, "what goes with it would be told of"
    with reflecting(tmp_path, NAMESPACE, start, *steps, going=going) as said:
        assert [str(said.get()) for _ in range(3)] == [cluster("a"), cluster("b"), cluster("a")]


def test_how_far_a_namespace_is_that_goes_is_no_news_but_who_holds_it_is(tmp_path: Path) -> None:
    def leaving(version: str, *finalizers: str) -> dict[str, Any]:
        about = {"annotations": {"flowplane.dev/epoch": "1"}, "deletionTimestamp": "2026-11-29T12:00:00Z"}
        found = one("a", version)
        found["metadata"] |= {**about, "finalizers": list(finalizers)}
        return found

    steps = (leaving("6", "theirs"), leaving("7", "theirs"), leaving("8", "theirs"), leaving("9"), one("b", "10"))
    with reflecting(tmp_path, NAMESPACE, listed("5", "a"), *(("MODIFIED", step) for step in steps)) as said:
        assert [str(said.get()) for _ in range(4)] == [*[cluster("a")] * 3, cluster("b")]


def test_a_turn_that_only_raised_the_fence_is_no_news(tmp_path: Path) -> None:
    def fenced(epoch: str, version: str, **notes: str) -> dict[str, Any]:
        found = one("a", version)
        found["metadata"]["annotations"] = {"flowplane.dev/epoch": epoch, **notes}
        return found

    start = Reply(body={"metadata": {"resourceVersion": "5"}, "items": [fenced("1", "5")]})
    raised = {"type": "MODIFIED", "object": fenced("2", "6")}
    other = {"type": "MODIFIED", "object": one("b", "7")}
    with scripted(start, Reply(lines=(raised, other), hangs=True)) as server:
        assert take(client_of(kubeconfig(tmp_path, server.port)), 2) == [cluster("a"), cluster("b")]
    noted = {"type": "MODIFIED", "object": fenced("2", "6", note="x")}
    with scripted(start, Reply(lines=(noted,), hangs=True)) as server:
        changes = Watch(client_of(kubeconfig(tmp_path, server.port)), (NAMESPACE,), lambda _: None).run()
        assert str(next(changes)) == cluster("a")
        changes.close()


def test_what_is_changed_again_and_again_is_left_alone_for_a_while() -> None:
    now = [0.0]
    healing = Healing(clock=lambda: now[0])
    one_cluster, other = uuid4(), uuid4()
    for _ in range(MAX_HEALS):
        healing.begin(one_cluster)
    with pytest.raises(Temporary, match="again and again") as refused:
        healing.begin(one_cluster)
    healing.begin(other)
    assert refused.value.retry_after_seconds == AGAIN_SECONDS, "what else is the matter is not left alone as long"
    now[0] += WITHIN_SECONDS + 1
    healing.begin(one_cluster)


def test_token_keys_are_compared_for_a_minute_after_a_change_and_every_five_minutes(tmp_path: Path) -> None:
    """Each comparison reads what all clusters have, which of thousands is not little."""
    jwks, now = {"keys": ["a"]}, 0.0
    kept = Reply(body={"data": {"certs": json.dumps(jwks)}})
    with scripted(Reply(body={"items": []}), known={"configmaps/token-keys": kept}) as server:
        mirror = TokenKeys(client_of(kubeconfig(tmp_path, server.port)), lambda: now)
        compared = []
        for second in range(0, 1400, 10):
            now, before = float(second), len(server.asked)
            mirror.publish(jwks)
            asked = server.asked[before:]
            assert "token-keys" in asked[0].path
            compared += [second] * (len(asked) - 1)
    assert compared == [0, 10, 20, 30, 40, 50, 60, 360, 660, 960, 1260]


def test_new_token_keys_are_handed_on_at_once_and_again_when_somebody_puts_back_the_former(tmp_path: Path) -> None:
    former = {"metadata": {"name": "token-keys", "namespace": "fp-1"}}
    kept, of_all = Reply(body={"data": {"certs": "{}"}}), Reply(body={"items": [former]})
    times = [0.0, 1000.0]
    with scripted(of_all, known={"flowplane-system/configmaps/token-keys": kept}) as server:
        mirror = TokenKeys(client_of(kubeconfig(tmp_path, server.port)), lambda: times.pop(0))
        for _ in range(2):
            server.asked.clear()
            mirror.publish({"keys": ["b"]})
            written = [asked.path.split("?")[0] for asked in server.asked if asked.method == "PATCH"]
            assert [path.split("/")[-3] for path in written] == ["flowplane-system", "fp-1"]


def test_new_token_keys_are_handed_on_until_a_comparison_a_minute_later_has_come_to_its_end(tmp_path: Path) -> None:
    """One that a busy server breaks off, or that takes longer than the minute, has not seen all that was written."""
    jwks = {"keys": ["a"]}
    kept = Reply(body={"data": {"certs": json.dumps(jwks)}})
    times = [0.0, 90.0, 100.0, 200.0]
    busy, of_all = Reply(429, headers={"Retry-After": "0"}), Reply(body={"items": []})
    with scripted(busy, of_all, of_all, known={"configmaps/token-keys": kept}) as server:
        keys = TokenKeys(client_of(kubeconfig(tmp_path, server.port)), lambda: times.pop(0))
        with pytest.raises(Temporary):
            keys.publish(jwks)
        compared = []
        for _ in range(3):
            before = len(server.asked)
            keys.publish(jwks)
            compared.append(len(server.asked) - before - 1)
    assert compared == [1, 0, 0]
