"""The userspace backend: policies compiled into a plan per SA."""
