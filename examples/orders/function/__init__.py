"""The function: handle() in handler.py, and the modules that it uses."""
