"""The engine's data on disk: a database, its migrations and its named queries."""
