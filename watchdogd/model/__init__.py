"""The words of docs/design.md as frozen values: base, seen, found, remembered, decided, done, told; and text.

They must never do I/O, read a clock or hold state.
"""
