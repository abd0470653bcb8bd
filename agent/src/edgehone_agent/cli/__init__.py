"""The commands of `edgehone-agent`, one per file: `help`, `examples`, `configure(parser)` and `run(args)`."""
