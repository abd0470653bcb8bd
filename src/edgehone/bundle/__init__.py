"""Build, open, compare the archive that a node receives."""
