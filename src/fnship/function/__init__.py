"""What runs a function: its handler, its invocations, its log and its state. Knows no server."""
