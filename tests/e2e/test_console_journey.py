"""A newcomer's whole way through the console, by hand, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from embedded.screenshots import DESKTOP, PHONE, Newcomer, browser
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.stack, pytest.mark.engine]


def require_fit(newcomer: Newcomer) -> None:
    """The page on screen fits a phone and a desk."""
    for size in (PHONE, DESKTOP):
        assert newcomer.overflow(size) <= 0, f"{newcomer.page.url} is wider than {size[0]} pixels"


@pytest.mark.timeout(900)
def test_from_sign_up_to_the_environment_file(stack: Stack) -> None:
    with browser() as context:
        ada = Newcomer(context.pages[0], stack.public_url)
        ada.sign_up()
        require_fit(ada)
        ada.read_mail()
        require_fit(ada)
        ada.confirm()
        require_fit(ada)
        ada.sign_in()
        require_fit(ada)
        ada.create_organization("Harbour Coffee")
        require_fit(ada)
        ada.plan_cluster("orders")
        require_fit(ada)
        cluster_id = ada.create_cluster()
        require_fit(ada)
        # The operation's own page keeps its steps, the cluster's shows them until it is over.
        ada.open("/operations")
        ada.page.locator("a[href^='/operations/']").first.click()
        expect(ada.page.locator("#live")).to_contain_text("Start the engine")
        require_fit(ada)
        ada.open(f"/clusters/{cluster_id}")
        ada.watch_until("healthy")
        expect(ada.page.locator("#endpoint-grpc")).to_be_visible()
        require_fit(ada)
        env_file = ada.create_credential("order workers")
        require_fit(ada)
        assert re.search(r"^export ZEEBE_ADDRESS='\S+:\d+'$", env_file, re.MULTILINE)
        assert f"export ZEEBE_TOKEN_AUDIENCE='{cluster_id}'" in env_file
        assert re.search(r"^export ZEEBE_CLIENT_SECRET='fps_\w+'$", env_file, re.MULTILINE)
        walk_the_other_pages(ada, cluster_id)
        assert ada.complaints == []


def walk_the_other_pages(newcomer: Newcomer, cluster_id: str) -> None:
    """Every other page a newcomer can click on shows itself, and fits."""
    cluster = f"/clusters/{cluster_id}"
    for path in (
        "/clusters",
        f"{cluster}/connect",
        f"{cluster}/settings",
        f"{cluster}/suspend",
        f"{cluster}/revoke-access",
        f"{cluster}/resize",
        f"{cluster}/upgrade",
        f"{cluster}/backups",
        f"{cluster}/delete",
        f"{cluster}/credentials",
        "/backups",
        "/operations",
        "/members",
        "/api-credentials",
        "/audit",
        "/organization",
        "/organizations/new",
        "/accounts/password/change/",
        "/accounts/sessions/",
        "/accounts/2fa/",
    ):
        newcomer.open(path)
        expect(newcomer.page.get_by_role("heading", level=1)).to_be_visible()
        require_fit(newcomer)
