"""The operator site: sees every organization, so only people marked as operators get in.

Everything on it runs in the request's transaction as the system role, from the moment the person is known to be an
operator and not before. People sign in on the product's own page, so its second factor guards this site too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from django.contrib.admin import AdminSite
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from django.urls import reverse

from tenants.scoping import as_system

View = TypeVar("View", bound=Callable[..., HttpResponseBase])


class OperatorSite(AdminSite):
    """Django's admin with our name on it."""

    site_header = "Flowplane operators"
    site_title = "Flowplane"
    index_title = "Everything in this installation"
    enable_nav_sidebar = True

    def has_permission(self, request: HttpRequest) -> bool:
        """Only people whom another operator has marked as operators."""
        return bool(request.user.is_active and request.user.is_staff)

    def admin_view(self, view: View, cacheable: bool = False) -> View:
        """Wrap a view of the site: permission first, then the system role, then the view and its page.

        The page is rendered here because a lazy query of its template would otherwise run after the transaction,
        under a role that sees nothing.
        """

        @wraps(view)
        def as_operator(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            as_system()
            response = view(request, *args, **kwargs)
            return response.render() if isinstance(response, SimpleTemplateResponse) else response

        return super().admin_view(cast(View, as_operator), cacheable)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Send people to the product's sign-in page, and those who are signed in but no operators away."""
        if request.user.is_authenticated and not self.has_permission(request):
            raise PermissionDenied
        target = request.GET.get("next") or reverse(f"{self.name}:index")
        return redirect_to_login(target, reverse("account_login"))
