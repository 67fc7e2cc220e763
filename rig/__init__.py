"""Real mongod, real uWSGI, real apps and light traffic, for the tests, the demo and the bench.

Nothing in here imitates anything: what mongo-watchdog has to cure lives in the interplay of fork, pymongo's
threads and TCP, and a fake would only repeat what we believe about it. The package is not installed and needs
no root, except for `netns`. It must never leave a process behind, nor a file outside its cache folder and the
folders it is given.
"""


class RigError(Exception):
    """A component could not be fetched, started or brought to where it was needed."""
