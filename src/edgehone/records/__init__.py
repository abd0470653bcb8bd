"""What the core remembers: one database with its tables and migrations, an audit log, and blobs by digest."""
