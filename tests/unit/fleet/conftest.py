"""Every test of the fleet that takes `database` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from edgehone.testing.databases import database, database_url, dialect

__all__ = ["database", "database_url", "dialect"]
