"""Composition root: settings, URLs, the Celery app, and how errors leave the house."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
