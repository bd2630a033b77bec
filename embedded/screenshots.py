"""Walk the console in a real browser, as a newcomer does: for the browser test, and for the pictures in the docs.

`python -m embedded.screenshots` makes the pictures anew, on a product of its own that is gone afterwards;
`--url` takes a running demo instead, which keeps the newcomer and its cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from playwright.sync_api import expect, sync_playwright

from embedded.accounts import service_account
from embedded.environment import Ports
from embedded.errors import SetupError
from embedded.home import Home, locate, purge
from embedded.machine import furnish, running
from embedded.setup import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext, ConsoleMessage, Page

PICTURES = CHECKOUT / "docs" / "images"
DESKTOP = (1440, 900)
PHONE = (390, 844)

# An engine's first start fetches 200 MB when the cache is cold.
PATIENCE_MILLISECONDS = 600_000.0

# A page of ours on a machine that is busy with an engine's start; Playwright's own 5 s are for a quiet one.
ANSWER_MILLISECONDS = 30_000.0

PASSWORD = "a quiet harbour 7"

# Nothing but the pages we ask for: no updates, no first-run page, no phoning home.
_SWITCHES = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def browser(scheme: Literal["light", "dark"] = "light") -> Iterator[BrowserContext]:
    """Open the machine's Chromium with an empty profile and no window.

    Raises:
        SetupError: it is not installed.
    """
    program = shutil.which("chromium")
    if program is None:
        raise SetupError("Chromium is missing. As root: apt-get install chromium")
    # Chromium's sandbox refuses to work for root.
    switches = [*_SWITCHES, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with tempfile.TemporaryDirectory(prefix="flowplane-browser-") as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            headless=True,
            timeout=120_000,
            args=switches,
            color_scheme=scheme,
            viewport={"width": DESKTOP[0], "height": DESKTOP[1]},
        )
        expect.set_options(timeout=ANSWER_MILLISECONDS)
        with contextlib.closing(context):
            yield context


@dataclass
class Newcomer:
    """Somebody who meets the console for the first time, and what the browser complained about meanwhile."""

    page: Page
    public_url: str
    email: str = field(default_factory=lambda: f"ada-{uuid4().hex[:6]}@example.com")
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{self.page.url}: {error}"))
        self.page.on("request", self._note_foreign)

    def open(self, path: str) -> None:
        """Go to a page of the console."""
        self.page.goto(f"{self.public_url}{path}")

    def sign_up(self) -> None:
        """Fill in the form that makes an account."""
        self.open("/accounts/signup/")
        self.page.get_by_label("Email").fill(self.email)
        self.page.get_by_label("Password").fill(PASSWORD)
        self._press("Sign up")

    def read_mail(self) -> None:
        """Wait for the mail in the demo's mailbox."""
        self.page.get_by_role("link", name="Open the demo mailbox").click()
        link = self.page.locator(f"article:has-text('{self.email}') a[href*='/confirm-email/']")
        for _ in range(60):
            if link.count():
                return
            self.page.wait_for_timeout(500)
            self.page.get_by_role("link", name="Look again").first.click()
        expect(link).to_be_visible()

    def confirm(self) -> None:
        """Follow the link and press the button behind it."""
        self.page.locator(f"article:has-text('{self.email}') a[href*='/confirm-email/']").first.click()
        self._press("Yes, confirm it")

    def sign_in(self) -> None:
        """Fill in the sign-in form."""
        self.page.get_by_label("Email").fill(self.email)
        self.page.get_by_label("Password").fill(PASSWORD)
        self._press("Sign in")

    def create_organization(self, name: str) -> None:
        """Make the first organization."""
        self.page.get_by_label("Name of the organization").fill(name)
        self._press("Create the organization")

    def plan_cluster(self, name: str) -> None:
        """Fill in the form of a new cluster and wait for its plan."""
        self.page.get_by_role("link", name="Create your first cluster").click()
        self.page.get_by_label("Name").fill(name)
        expect(self.page.locator("#plan")).to_contain_text("Start the engine")

    def create_cluster(self) -> str:
        """Ask for the planned cluster; its id."""
        self._press("Create the cluster")
        self.page.wait_for_url(re.compile(r"/clusters/[0-9a-f-]{36}$"))
        return self.page.url.rpartition("/")[2]

    def watch_until(self, phase: str) -> None:
        """Stay on the cluster's page until it shows the phase, without touching anything."""
        expect(self.page.locator(f"#live[data-phase='{phase}']")).to_be_visible(timeout=PATIENCE_MILLISECONDS)

    def create_credential(self, name: str) -> str:
        """Make a credential from the cluster's page; the text of its environment file."""
        self.page.locator("#to-credentials").click()
        self.page.get_by_label("Name").fill(name)
        self._press("Make the credential")
        return self.page.locator("#env-file").inner_text()

    def overflow(self, size: tuple[int, int]) -> int:
        """How many pixels the page is wider than a screen of this size; the page is left in that size."""
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        wider: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wider

    def _press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{self.page.url}: {message.text}")

    def _note_foreign(self, request: Any) -> None:
        if not request.url.startswith((self.public_url, "data:")):
            self.complaints.append(f"{self.page.url}: asks {request.url}")


@dataclass(frozen=True)
class Camera:
    """Takes pictures of a page into a folder."""

    folder: Path

    def shoot(self, page: Page, name: str, size: tuple[int, int]) -> None:
        """Take a picture of what a screen of this size shows."""
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.wait_for_timeout(300)
        page.screenshot(path=self.folder / f"{name}.png", animations="disabled")


def take_pictures(public_url: str, folder: Path) -> None:
    """Walk through the product at this address and take every picture of the docs. Minutes, mostly the engine's."""
    folder.mkdir(parents=True, exist_ok=True)
    camera = Camera(folder)
    with browser() as context:
        ada = Newcomer(context.pages[0], public_url, email="ada@example.com")
        ada.sign_up()
        ada.read_mail()
        ada.confirm()
        ada.sign_in()
        ada.create_organization("Harbour Coffee")
        ada.plan_cluster("orders")
        camera.shoot(ada.page, "new-cluster", DESKTOP)
        ada.create_cluster()
        expect(ada.page.locator(".fp-step-running")).to_be_visible(timeout=PATIENCE_MILLISECONDS)
        camera.shoot(ada.page, "progress", DESKTOP)
        ada.watch_until("healthy")
        camera.shoot(ada.page, "cluster", DESKTOP)
        ada.page.emulate_media(color_scheme="dark")
        camera.shoot(ada.page, "cluster-dark-phone", PHONE)
    if ada.complaints:
        raise SetupError("The browser complained: " + "; ".join(ada.complaints))


@contextlib.contextmanager
def product() -> Iterator[str]:
    """A product of our own with an empty home, gone afterwards; its address."""
    # Not the user's folder for temporary files: the service user must pass through.
    with tempfile.TemporaryDirectory(prefix="flowplane-pictures-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        home = Home(folder / "home", locate().cache, service_account())
        machine = furnish(home, Ports(_free_port(), _free_port()))
        try:
            with running(machine, lambda title: contextlib.nullcontext(print(title))):
                yield machine.ports.public_url
        finally:
            purge(home)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    """Make the pictures; 1 with a sentence when something is missing or wrong."""
    parser = argparse.ArgumentParser(prog="python -m embedded.screenshots", description=__doc__)
    parser.add_argument("--url", help="a running demo's address, such as http://localhost:8080")
    parser.add_argument("--into", type=Path, default=PICTURES, help="the folder for the pictures")
    options = parser.parse_args()
    source = contextlib.nullcontext(options.url) if options.url else product()
    try:
        with source as public_url:
            take_pictures(public_url, options.into)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
