"""Values that core and node exchange. Plain data, JSON in and out, unknown fields ignored on reading."""
