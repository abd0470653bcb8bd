"""The core's HTTP face and dashboard; holds no rule of its own."""
