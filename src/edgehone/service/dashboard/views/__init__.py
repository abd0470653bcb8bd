"""The pages of the dashboard, one module each, with the router that serves it."""
