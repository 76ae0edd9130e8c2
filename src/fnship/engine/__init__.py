"""Invokes functions, durably, and keeps their state and their logs."""
