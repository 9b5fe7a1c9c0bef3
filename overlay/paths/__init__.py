"""The anonymous paths that users request, and the circuits that serve them: a core without I/O.

Reasons: docs/decisions/0059.
"""
