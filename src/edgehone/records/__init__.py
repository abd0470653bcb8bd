"""What the core remembers: one database, its tables and migrations, and a store of blobs by digest."""
