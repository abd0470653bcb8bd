"""The study: how a family is made. Read `study.py` first."""
