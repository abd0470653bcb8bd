"""Which nodes there are, what each should run, and how a new release gets to all of them."""
