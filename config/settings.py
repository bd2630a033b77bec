"""Settings, fed by the environment only. The same file serves the laptop, the tests and production."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from config.env import Environment
from provisioning.spec import Lifecycle
from provisioning.states import ConditionType, OperationKind, OperationState, Phase, Stage, StepKind, StepState, Truth
from provisioning.verdicts import Verdict
from tenants.actor import PrincipalKind
from tenants.roles import Role

env = Environment(os.environ)

# --- Secrets ---------------------------------------------------------------------------------------------------------
SECRET_KEY = env.text("SECRET_KEY")
# Fernet keys that seal token-signing keys at rest; the first one seals, all of them open.
MASTER_KEYS = env.fernet_keys("MASTER_KEYS")
# Key of the HMAC under which credential secrets are kept.
CREDENTIAL_PEPPER = env.text("CREDENTIAL_PEPPER")

# --- Where we are reached --------------------------------------------------------------------------------------------
PUBLIC_URL = env.web_address("PUBLIC_URL")
API_URL = env.web_address("API_URL")
TOKEN_URL = f"{API_URL}/oauth/token"
API_AUDIENCE = API_URL
_is_https = PUBLIC_URL.startswith("https://")
ALLOWED_HOSTS = env.text("ALLOWED_HOSTS").split(",")
CSRF_TRUSTED_ORIGINS = sorted({PUBLIC_URL, API_URL})
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _is_https
SESSION_COOKIE_HTTPONLY = True
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 31536000 if _is_https else 0
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "config.problems.on_csrf_failure"
APPEND_SLASH = False

# --- Database --------------------------------------------------------------------------------------------------------


def _database(url: str) -> dict[str, Any]:
    """`postgresql://role:password@host:port/name?host=/socket/folder`, as Django wants it."""
    parts = urlsplit(url)
    if parts.scheme != "postgresql" or not parts.path.strip("/"):
        raise ImproperlyConfigured("FLOWPLANE_DATABASE_URL must look like postgresql://role@host/database.")
    host = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.strip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or ""),
        "ATOMIC_REQUESTS": True,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"connect_timeout": 5},
    }


DATABASES = {"default": _database(env.text("DATABASE_URL"))}
# Where pg_dump and pg_restore lie, when not on the PATH.
POSTGRES_BIN = Path(folder) if (folder := env.text("POSTGRES_BIN", "")) else None
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Celery: a doorbell, not a ledger --------------------------------------------------------------------------------
CELERY_BROKER_URL = env.text("BROKER_URL")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 1, "socket_timeout": 2, "max_retries": 0}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_DEFAULT_QUEUE = "flowplane"

# --- Applications ----------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "config.admin.OperatorAdminConfig",
    "console",  # before allauth: its templates take the place of allauth's own
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "rest_framework",
    "drf_spectacular",
    "config",  # for its commands
    "tenants",
    "billing",
    "provisioning",
]
MIDDLEWARE = [
    "config.observability.RequestMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "allauth.usersessions.middleware.UserSessionsMiddleware",
    "console.policy.ContentSecurityPolicyMiddleware",
    "config.problems.ProblemMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "console.context.frame",
            ],
        },
    },
]
STATIC_URL = "/static/"
FRONTEND_DIR = Path(env.text("FRONTEND_DIR"))
STATICFILES_DIRS = [
    ("tabler", FRONTEND_DIR / "node_modules/@tabler/core/dist"),
    ("htmx", FRONTEND_DIR / "node_modules/htmx.org/dist"),
]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

# --- People ----------------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "tenants.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "tenants.auth.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_CONFIRM_EMAIL_ON_GET = False
ACCOUNT_EMAIL_CONFIRMATION_EXPIRE_DAYS = 3
ACCOUNT_LOGIN_ON_EMAIL_CONFIRMATION = False
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if _is_https else "http"
USERSESSIONS_TRACK_ACTIVITY = True
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes", "webauthn"] if env.flag("MFA", "on") else []
MFA_PASSKEY_LOGIN_ENABLED = bool(MFA_SUPPORTED_TYPES)
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not _is_https

# --- Mail: smtp://, or a folder that the mailbox page shows ----------------------------------------------------------
_mail = urlsplit(env.text("EMAIL_URL"))
MAILBOX_DIR = Path(_mail.path) if _mail.scheme == "mailbox" else None
if MAILBOX_DIR:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = str(MAILBOX_DIR)
elif _mail.scheme in ("smtp", "smtps"):
    EMAIL_HOST, EMAIL_PORT = _mail.hostname or "", _mail.port or 587
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = unquote(_mail.username or ""), unquote(_mail.password or "")
    EMAIL_USE_SSL = _mail.scheme == "smtps"
    EMAIL_USE_TLS = not EMAIL_USE_SSL
    EMAIL_TIMEOUT = 10
else:
    raise ImproperlyConfigured("FLOWPLANE_EMAIL_URL must begin with smtp://, smtps:// or mailbox:///.")
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.text("EMAIL_FROM")

# --- REST door -------------------------------------------------------------------------------------------------------
# Of one organization at one web process, within ten seconds; 0: as many as come.
API_REQUESTS = {"reads": env.number("API_READS", 600), "writes": env.number("API_WRITES", 200)}
# Each process's own, and nothing but counts of requests: Redis may be away.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "requests": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "LOCATION": "requests",
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    },
}
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tenants.auth.BearerAuthentication",
        "tenants.auth.ConsoleSessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.auth.IsAuthenticatedActor"],
    "DEFAULT_THROTTLE_CLASSES": ["tenants.api.throttling.ReadThrottle", "tenants.api.throttling.WriteThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["config.parsers.BoundedJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "config.problems.handle",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Flowplane",
    "DESCRIPTION": "Zeebe engine clusters as a service: organizations, clusters, credentials and operations.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "PREPROCESSING_HOOKS": ["config.openapi.only_our_api"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "config.openapi.describe_problems",
    ],
    "ENUM_NAME_OVERRIDES": {
        "StageEnum": [stage.value for stage in Stage],
        "OperationKindEnum": [kind.value for kind in OperationKind],
        "OperationStateEnum": [state.value for state in OperationState],
        "StepKindEnum": [kind.value for kind in StepKind],
        "StepStateEnum": [state.value for state in StepState],
        "LifecycleEnum": [word.value for word in Lifecycle],
        "PhaseEnum": [word.value for word in Phase],
        "TruthEnum": [word.value for word in Truth],
        "ConditionTypeEnum": [word.value for word in ConditionType],
        "PrincipalKindEnum": [word.value for word in PrincipalKind],
        "VerdictEnum": [word.value for word in Verdict],
        "RoleEnum": [role.value for role in Role],
    },
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000

# --- Engines ---------------------------------------------------------------------------------------------------------
OFFERING = env.one_of("OFFERING", ("internal", "commercial"))
CAMUNDA_LICENSE_KEY = env.text("CAMUNDA_LICENSE_KEY", "")
HOME_DIR = Path(env.text("HOME"))
CACHE_DIR = Path(env.text("CACHE"))
JAVA_HOME = Path(env.text("JAVA_HOME"))
CA_CERT_FILE = Path(env.text("CA_CERT_FILE"))
CA_KEY_FILE = Path(env.text("CA_KEY_FILE"))
ENGINE_USER = env.text("ENGINE_USER", "")
ENGINE_PORTS = env.port_range("ENGINE_PORTS", "26500-26999")
ENGINE_MEMORY_MIB = env.optional_number("ENGINE_MEMORY_MB")
# Regions that are Kubernetes clusters: for each a kubeconfig and the chart's values, in files named by its slug.
# Without a folder of kubeconfigs we run in the one such region there is, by our pod's account.
KUBECONFIG_DIR = Path(folder) if (folder := env.text("KUBECONFIG_DIR", "")) else None
REGION_VALUES_DIR = Path(folder) if (folder := env.text("REGION_VALUES_DIR", "")) else None
CHART = Path(env.text("CHART", str(Path(__file__).resolve().parent.parent / "charts" / "engine-cluster")))
HELM = env.text("HELM", "helm")
ENGINE_IMAGE = env.text("ENGINE_IMAGE", "camunda/zeebe")
# Under which ports the regions' edges lead clients to engines; REST only where one does.
EDGE_PORT = env.number("EDGE_PORT", 443)
EDGE_REST_PORT = env.optional_number("EDGE_REST_PORT")
# What one process of ours may ask of a region's API server; what came in a burst may be twice that.
REGION_REQUESTS_PER_SECOND = env.number("REGION_REQUESTS_PER_SECOND", 50)
# Where engines put backups: an S3 interface, or nowhere.
_store = env.all_or_none(
    "BACKUP_S3_ENDPOINT", "BACKUP_S3_REGION", "BACKUP_S3_BUCKET", "BACKUP_S3_ACCESS_KEY", "BACKUP_S3_SECRET_KEY"
)
_is_path_style = env.flag("BACKUP_S3_PATH_STYLE", "on")
BACKUP_STORE: dict[str, Any] | None = _store and {
    "endpoint": env.web_address("BACKUP_S3_ENDPOINT"),
    "region": _store["BACKUP_S3_REGION"],
    "bucket": _store["BACKUP_S3_BUCKET"],
    "access_key": _store["BACKUP_S3_ACCESS_KEY"],
    "secret_key": _store["BACKUP_S3_SECRET_KEY"],
    "path_style": _is_path_style,
}
UNDO_WINDOW_SECONDS = env.number("UNDO_WINDOW_SECONDS", 86_400)
TOKEN_LIFETIME_SECONDS = env.number("TOKEN_LIFETIME_SECONDS", 43_200)

# --- Watching ourselves ----------------------------------------------------------------------------------------------
METRICS_TOKEN = env.text("METRICS_TOKEN", "")
# Where worker, clock and watch leave their pulse for a probe (common/pulse.py).
PULSE_FILE = Path(file) if (file := env.text("PULSE_FILE", "")) else None
LOG_FORMAT = env.one_of("LOG_FORMAT", ("text", "json"), "text")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "config.observability.LineFormatter", "as_json": LOG_FORMAT == "json"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {"django.server": {"handlers": ["stderr"], "propagate": False}},
}

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_I18N = False

env.refuse_unknown()
