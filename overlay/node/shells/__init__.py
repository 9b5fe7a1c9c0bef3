"""The node's shells: tasks, sockets and devices that connect its cores with the operating system.

They use cores and ``overlay.system``. They know nothing of requests, reports and the running node.
"""
