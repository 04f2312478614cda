"""What stands between prompt and response in the plain format."""

from __future__ import annotations

import unicodedata

_SPACELESS = (
    "CJK",
    "IDEOGRAPHIC",
    "FULLWIDTH",
    "HIRAGANA",
    "KATAKANA",
    "BOPOMOFO",
    "YI SYLLABLE",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)
"""First words of the Unicode names of characters whose scripts put no space between words."""


def separator(prompt: str, response: str, given: str | None) -> str:
    """``pool.separator``, or by default a space, unless the texts bring white space or the script writes none.

    The script is that of the prompt's last letter or digit, or of its last character where that is punctuation of such
    a script.
    """
    if given is not None:
        return given
    if prompt[-1:].isspace() or response[:1].isspace():
        return ""
    letters = (character for character in reversed(prompt) if character.isalnum())
    return "" if _spaceless(prompt[-1:]) or _spaceless(next(letters, "")) else " "


def shown(text: str) -> str:
    """A separator as a reader is told of it."""
    return {"": "nothing", " ": "a space", "\n": "a line break"}.get(text, repr(text))


def _spaceless(character: str) -> bool:
    return bool(character) and unicodedata.name(character, "").startswith(_SPACELESS)
