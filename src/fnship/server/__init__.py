"""Puts the function on a socket."""
