"""The command line: one file per command.

A command file defines `help` (one line), `examples` (command lines that work), `configure(parser)` and
`run(args) -> exit code`. Its stem is the command's name. It imports nothing heavy at module level: `edgehone --help`
starts in well under 0.3 s and without torch.
"""
