"""What a tired stranger reads, as sentences: one that is too long needs a second reading."""

import re

WORDS = 25
"""Of a sentence, at most. Code in backquotes is one."""


def sentences(text: str) -> list[str]:
    """Return the sentences of one paragraph, an item of a list or a cell of a table."""
    return [one for one in re.split(r"(?<=[.?!:;])\s", " ".join(re.sub(r"`[^`]*`", "CODE", text).split())) if one]


def too_long(paragraphs: list[str]) -> list[str]:
    """Return the sentences that have too many words."""
    return [one for text in paragraphs for one in sentences(text) if len(one.split()) > WORDS]
