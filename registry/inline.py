"""What the worker and the application agree on: an answer that is given at once, or not here."""

from __future__ import annotations

from typing import Final

#: In the environment of a request to which nothing may be answered that could wait, for a disk or for anything else;
#: and among the extensions of an application that knows of it.
INLINE: Final = "pierhead.inline"
#: Is answered then where that cannot be: the same request is to be made anew, where it may wait.
NOT_INLINE: Final[tuple[bytes, ...]] = (b"",)
