"""Tasks that come with edgehone: each file defines a function `task() -> Task`; its name is the file's stem."""
