"""The registry of extensions; see `edgehone_agent.plugins`, which the node shares."""

from edgehone_agent.plugins import PluginError, Registry

__all__ = ["PluginError", "Registry"]
