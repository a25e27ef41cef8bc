# SPDX-License-Identifier: Apache-2.0
"""An API in Django with REST framework: gunicorn api_django:app. In a project, each part has a file of its own."""

import json
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

from dpop.server import REFUSALS, JWTAccessTokens, MemoryReplayCache, ProofVerifier, ProtectedResource
from dpop.wsgi import DPoPMiddleware, access, refusal

ISSUER, API = "https://as.example", "https://api.example"
resource = ProtectedResource(
    ProofVerifier(replay=MemoryReplayCache()),
    url=API,
    token=JWTAccessTokens(issuer=ISSUER, audience=API),
    public=lambda path: path == "/health",
    authorization_servers=[ISSUER],
)

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this example",
    INSTALLED_APPS=["rest_framework"],
    REST_FRAMEWORK={
        "EXCEPTION_HANDLER": f"{__name__}.refused",
        "UNAUTHENTICATED_USER": None,
    },
)
django.setup()

from rest_framework.authentication import BaseAuthentication  # noqa: E402 - after the settings
from rest_framework.exceptions import MethodNotAllowed  # noqa: E402
from rest_framework.permissions import BasePermission  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView, exception_handler  # noqa: E402


class DPoPAuthentication(BaseAuthentication):
    """``request.user`` is the subject of the token, ``request.auth`` its access."""

    def authenticate(self, request: Any) -> Any:
        """Ask the middleware."""
        admitted = access(request.environ, optional=True)
        return None if admitted is None else (admitted.claims["sub"], admitted)


class Scopes(BasePermission):
    """The scope that a view needs for each method."""

    def has_permission(self, request: Any, view: Any) -> bool:
        """Raise the error with the challenge, which False would lose."""
        if request.method not in view.scopes:
            raise MethodNotAllowed(request.method)
        access(request.environ).require_scope(view.scopes[request.method])
        return True


class Items(APIView):
    """For tokens that may read, or write."""

    authentication_classes = (DPoPAuthentication,)
    permission_classes = (Scopes,)
    scopes = {"GET": "read", "HEAD": "read", "POST": "write"}  # noqa: RUF012 - as a view of Django says it

    def get(self, request: Any) -> Any:
        """Read."""
        return Response({"for": request.user})

    def post(self, request: Any) -> Any:
        """Write."""
        return Response({"for": request.user})


class Health(APIView):
    """For everybody."""

    authentication_classes = ()

    def get(self, _request: Any) -> Any:
        """Tell."""
        return Response({"status": "well"})


def refused(error: Exception, context: Any) -> Any:
    """The response to a request that is refused in a view."""
    if not isinstance(error, REFUSALS):
        return exception_handler(error, context)
    refused_by = refusal(context["request"].environ, error)
    response = Response(json.loads(refused_by.body or b"null"), status=refused_by.status)
    for name, value in refused_by.headers:
        response[name] = f"{response[name]}, {value}" if name in response else value
    return response


urlpatterns = [path("items", Items.as_view()), path("health", Health.as_view())]
app = DPoPMiddleware(get_wsgi_application(), resource)
