"""Sizes in bytes, as people read them."""

from __future__ import annotations

_STEP = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def show_size(size: float) -> str:
    """Return a number of bytes such as "512 B" or "1.5 GiB"."""
    unit = 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size /= _STEP
        unit += 1
    return f"{size:.{1 if unit else 0}f} {_UNITS[unit]}"
