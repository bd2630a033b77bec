"""The main job, done as a customer would: sign up, get an engine, fulfil orders on it. Through the doors only."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from embedded import keyring
from embedded.doors import POLL_SECONDS, Visitor, confirmation_path, is_served, wait_for
from embedded.errors import SetupError
from embedded.files import write_whole
from embedded.processes import end_session
from embedded.setup import CHECKOUT, VENV

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embedded.home import Home
    from embedded.keyring import Login
    from embedded.terminal import Step, Terminal

ORGANIZATION = "Demo Traders"
CLUSTER = "orders"
# Its release may be used in production inside a company, and serves every stage.
CHANNEL = "stable"
CREDENTIAL = "order-fulfilment"
MAIL_SECONDS = 60.0
# The first time the engine's distribution (200 MB) is downloaded, and its class archive built.
CLUSTER_SECONDS = 1800.0
ORDERS_SECONDS = 180.0


@dataclass
class Journey:
    """One pass of the main job. Each part first looks whether an earlier pass has done it."""

    home: Home
    terminal: Terminal
    visitor: Visitor
    login: Login

    def travel(self) -> dict[str, Any]:
        """Do everything and return the summary of the orders.

        Raises:
            SetupError: says which part failed and why.
        """
        self.enter()
        self.join_organization()
        self.get_cluster()
        env_file = self.get_credentials()
        return self.fulfil_orders(env_file)

    # People --------------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Sign in with the login of an earlier demo, or sign up and confirm the address."""
        earlier = keyring.load_login(self.home)
        if earlier is not None and self._sign_in("Sign in again"):
            return
        # An account that was not confirmed, because the demo was killed, accepts the password and lets nobody in.
        if earlier is None or not self._is_known():
            with self.terminal.step("Sign up"):
                self._sign_up()
        with self.terminal.step("Confirm the e-mail address") as step:
            self._confirm(step)
        if not self._sign_in("Sign in for the first time"):
            raise SetupError(f"{self.login.email} has confirmed its address and still cannot sign in.")

    def _sign_in(self, title: str) -> bool:
        with self.terminal.step(title):
            self._is_known()
            return self.visitor.is_signed_in

    def _is_known(self) -> bool:
        return self.visitor.submit("/accounts/login/", login=self.login.email, password=self.login.password)

    def _sign_up(self) -> None:
        # The login is kept before it is used: a demo that is killed after this goes on with it.
        keyring.save_login(self.home, self.login)
        if not self.visitor.submit("/accounts/signup/", email=self.login.email, password1=self.login.password):
            raise SetupError(f"The sign-up form refused {self.login.email}.")

    def _confirm(self, step: Step) -> None:
        step.note("the mail is on its way to the mailbox page")
        mailbox = f"/mailbox?to={quote(self.login.email)}"

        def look() -> str | None:
            return confirmation_path(self.visitor.page(mailbox))

        link = wait_for(look, seconds=MAIL_SECONDS, what="The confirmation mail")
        if not self.visitor.submit(link):
            raise SetupError("The confirmation link was refused.")

    def join_organization(self) -> None:
        """Found the organization unless we have one."""
        if self.visitor.api("GET", "/organizations")["items"]:
            return
        with self.terminal.step("Found an organization"):
            self.visitor.api("POST", "/organizations", {"name": ORGANIZATION})

    # Engine ----------------------------------------------------------------------------------------------------------

    def get_cluster(self) -> None:
        """Order an engine cluster, or wait for the one we have to come back."""
        known = self._known_cluster()
        if known is None:
            with self.terminal.step("Create an engine cluster") as step:
                self._create_cluster(step)
        with self.terminal.step(
            "Wait until the engine is healthy" if known is None else "Bring the engine back"
        ) as step:
            self._wait_until_healthy(step)

    def _known_cluster(self) -> dict[str, Any] | None:
        clusters: list[dict[str, Any]] = self.visitor.api("GET", "/clusters")["items"]
        mine = [cluster for cluster in clusters if self.login.cluster_id in (cluster["id"], "")]
        named = [cluster for cluster in mine if cluster["name"] == CLUSTER and cluster["lifecycle"] != "deleted"]
        if not named:
            return None
        self._remember(named[0]["id"])
        return named[0]

    def _create_cluster(self, step: Step) -> None:
        catalogue = self.visitor.api("GET", "/catalogue")
        wish = {
            "name": CLUSTER,
            "stage": "dev",
            "region": catalogue["regions"][0]["slug"],
            "plan_type": min(catalogue["plan_types"], key=lambda size: size["memory_mib"])["slug"],
            "channel": CHANNEL,
        }
        answer = self.visitor.request("POST", "/clusters", wish)
        if answer.status_code != 202:
            raise SetupError(f"The cluster was not accepted: {answer.json().get('detail', answer.text)}")
        self._remember(answer.json()["cluster"]["id"])
        self._follow(answer.headers["Location"].removeprefix("/api/v1"), step)

    def _follow(self, operation_path: str, step: Step) -> None:
        """Show an operation's progress until it has ended."""
        deadline = time.monotonic() + CLUSTER_SECONDS
        while True:
            operation = self.visitor.api("GET", operation_path)
            if operation["state"] == "succeeded":
                return
            if operation["state"] in ("failed", "cancelled"):
                error = operation["error"] or {}
                raise SetupError(
                    f"The cluster's creation {operation['state']}: {error.get('message', 'no reason given')}"
                )
            if time.monotonic() > deadline:
                raise SetupError(f"The cluster was not ready within {CLUSTER_SECONDS:.0f} s: {_progress_of(operation)}")
            step.note(_progress_of(operation))
            time.sleep(POLL_SECONDS)

    def _wait_until_healthy(self, step: Step) -> None:
        def look() -> bool | None:
            cluster = self.visitor.api("GET", f"/clusters/{self.login.cluster_id}")
            step.note(_waits_of(cluster))
            # What is said of an engine may be a moment old when everything has just been started again.
            is_there = cluster["phase"] == "healthy" and is_served(cluster["endpoint"]["grpc"], self.home.certificate)
            return True if is_there else None

        wait_for(look, seconds=CLUSTER_SECONDS, what=f"A healthy engine for the cluster {CLUSTER}")

    def _remember(self, cluster_id: str) -> None:
        self.login = replace(self.login, cluster_id=cluster_id)
        keyring.save_login(self.home, self.login)

    # Orders ----------------------------------------------------------------------------------------------------------

    def get_credentials(self) -> Path:
        """Return the env file of this cluster; made once, because a secret is shown once."""
        path = self.home.demo / f"{self.login.cluster_id}.json"
        if path.exists():
            return path
        with self.terminal.step("Get credentials for the engine"):
            made = self.visitor.api("POST", f"/clusters/{self.login.cluster_id}/credentials", {"name": CREDENTIAL})
            self.home.demo.mkdir(mode=0o700, exist_ok=True)
            write_whole(path, json.dumps(made["env"], indent=2), mode=0o600)
        return path

    def fulfil_orders(self, env_file: Path) -> dict[str, Any]:
        """Deploy the process, run its workers, place orders, and return the counts when all have ended.

        One order more is left waiting for its shipment. The next demo ships it: a process instance that outlives
        everything in between shows that the engine came back with its data.
        """
        ledger = self.home.demo / f"ledger-{self.login.cluster_id}"
        if ledger.exists():
            with self.terminal.step("Ship the order that the last demo left waiting") as step:
                self._run_errand(Example(env_file, ledger, "ship"), "summary", step)
        with Example(env_file, ledger, "run") as example:
            with self.terminal.step("Deploy the order-fulfilment process"):
                first = next(event for event in example.events if event["event"] != "deployed")
            with self.terminal.step("Fulfil orders with its workers") as step:
                counts = self._watch(example, first, step)
        with self.terminal.step("Leave one order waiting for its shipment") as step:
            self._run_errand(Example(env_file, ledger, "leave-waiting"), "waiting", step)
        return counts

    def _run_errand(self, errand: Example, last: str, step: Step) -> None:
        """Follow one of the example's short commands to its last event."""
        with errand as example:
            while (event := next(example.events))["event"] != last:
                self._tell(event, step)

    def _watch(self, example: Example, first: dict[str, Any], step: Step) -> dict[str, Any]:
        event = first
        while event["event"] != "summary":
            self._tell(event, step)
            event = next(example.events)
        return event

    def _tell(self, event: dict[str, Any], step: Step) -> None:
        if event["event"] == "progress":
            step.note(f"{event['order_id']}: {event['fact'].replace('_', ' ')}")
        if event["event"] == "outcome":
            self.terminal.say(f"  [dim]{_outcome_of(event)}[/dim]")


def _progress_of(operation: dict[str, Any]) -> str:
    return f"{operation['percent']} %, {operation['verdict']}: {operation['waits_for'] or operation['state']}"


def _waits_of(cluster: dict[str, Any]) -> str:
    messages = [each["message"] for each in cluster["conditions"] if each["status"] != "True" and each["message"]]
    return f"{cluster['phase']}: {messages[0]}" if messages else str(cluster["phase"])


def _outcome_of(event: dict[str, Any]) -> str:
    reason = f" ({event['reason']})" if event.get("reason") else ""
    attempts = int(event.get("payment_attempts", 1))
    retried = f", paid at the {attempts}. attempt" if attempts > 1 else ""
    return f"{event['order_id']}: {event['outcome']}{reason}{retried}, {event['seconds']:.1f} s"


class Example:
    """The example's own program, with exactly the env file's variables: what a customer would run."""

    def __init__(self, env_file: Path, ledger: Path, command: str) -> None:
        variables = json.loads(env_file.read_text(encoding="utf-8"))
        argv = [str(VENV / "bin" / "python"), "-m", "examples.order_fulfilment"]
        argv += ["--folder", str(ledger), "--timeout", f"{ORDERS_SECONDS:.0f}", command]
        self._complaints: list[str] = []
        self.events = self._read()
        self._child = subprocess.Popen(
            argv,
            cwd=CHECKOUT,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Example:
        return self

    def __exit__(self, *_: object) -> None:
        end_session(self._child)
        assert self._child.stdout is not None
        self._child.stdout.close()

    def _read(self) -> Iterator[dict[str, Any]]:
        """Yield what it reports, one after the other.

        Raises:
            SetupError: it failed, or ended without its summary; what it said is passed on.
        """
        assert self._child.stdout is not None
        for line in self._child.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                self._complaints.append(line.rstrip())
                continue
            if event["event"] == "failed":
                raise SetupError(f"The example failed: {event['message']}")
            yield event
        said = "\n".join(self._complaints[-20:])
        raise SetupError(f"The example ended with {self._child.wait()} before all orders had ended. It said:\n{said}")
