"""A database for the tests of the loop."""

from edgehone.testing.databases import database, database_url, dialect

__all__ = ["database", "database_url", "dialect"]
