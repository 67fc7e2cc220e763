"""Reads the world and folds what it reads into a Snapshot; never decides anything."""


def fault(error: Exception) -> str:
    """Return what is said of an edge that raised: a bug, which makes that part blind and ends nothing."""
    return f"internal error: {error!r}; please report it"
