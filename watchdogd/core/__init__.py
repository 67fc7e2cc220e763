"""Decides: what a Snapshot means, and what to do about it. Pure: no I/O, no clock, no logging."""
