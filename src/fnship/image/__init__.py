"""Puts a function into a container image, and runs one."""
