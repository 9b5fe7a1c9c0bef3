"""Acceptance: experiments whose results are compared with expected values."""
