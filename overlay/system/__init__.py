"""Shells around the operating system: UDP, TUN devices, routes, packet filters."""
