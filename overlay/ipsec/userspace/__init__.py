"""The userspace backend, which compiles policies into steps for the packets of each SA."""
