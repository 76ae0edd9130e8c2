"""What makes a function reachable: it has a URL already, or a process of it is kept running."""
