"""The ``overlay`` command: arguments in, a node or a question to a running node, text out."""
