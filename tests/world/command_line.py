"""The verbs and options of the command line, for what must keep up with them: man pages and completions."""

import argparse

from watchdogd.cli import main as cli


def verbs() -> dict[str, argparse.ArgumentParser]:
    """The parser of each verb; argparse has no public way to list them."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in cli._parser()._actions:  # noqa: SLF001 (see above)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (see above)
            found.update(action.choices)
    return found


def arguments(verb: str) -> list[argparse.Action]:
    """What a verb takes, in its order."""
    return list(verbs()[verb]._actions)  # noqa: SLF001 (see above)
