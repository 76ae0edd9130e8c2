"""The engine's HTTP API, for people and programs that invoke functions."""
