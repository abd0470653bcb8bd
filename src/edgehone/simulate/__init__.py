"""A fleet on one machine: devices whose world changes by a script, nodes that are real processes, and a clock."""
