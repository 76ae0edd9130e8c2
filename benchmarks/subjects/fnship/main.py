"""A user's main.py, as ``fnship new`` writes it."""

from fnship import serve

if __name__ == "__main__":
    serve()
