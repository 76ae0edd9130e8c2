"""What the container runs: serves this folder's function on port 5000."""

from fnship import serve

if __name__ == "__main__":
    # Serves function.handler:handle, unless FUNCTION_TARGET names another. It is imported
    # there and not here, so that a mistake in it ends in one clear line.
    serve()
