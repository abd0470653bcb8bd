"""What turns a network into a smaller one: one technique is one file."""
