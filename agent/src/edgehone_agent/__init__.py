"""The node side of edgehone: runtimes, measuring, and the messages that core and node share."""

__version__ = "0.1.0"
