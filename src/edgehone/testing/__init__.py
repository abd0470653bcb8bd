"""What extenders and our own tests share: reference networks and one contract suite per kind of extension."""
