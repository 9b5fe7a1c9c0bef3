"""The ``overlay`` command line: start a node, or ask a running node, and print the result."""
