"""Publish releases: a TUF repository of static files that any web server can host."""
