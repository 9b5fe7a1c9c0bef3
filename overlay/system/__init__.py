"""Shells around the operating system: UDP, TUN, routes, packet filter."""
