from __future__ import annotations

import pytest

from embedded.doors import confirmation_path, wait_for
from embedded.errors import SetupError

PAGE = """<p>To: ada@demo.example</p><pre>Please follow
<a href="http://localhost:8080/accounts/confirm-email/MQ:1vN:x_y-z/">this link</a></pre>"""


def test_the_confirmation_link_is_found_in_the_mailbox_page() -> None:
    assert confirmation_path(PAGE) == "/accounts/confirm-email/MQ:1vN:x_y-z/"


def test_a_mail_without_a_link_is_waited_over() -> None:
    assert confirmation_path("<p>ada@demo.example: welcome</p>") is None


def test_waiting_ends_with_a_sentence() -> None:
    with pytest.raises(SetupError, match="The mail did not come within 0 s"):
        wait_for(lambda: None, seconds=0, what="The mail")
