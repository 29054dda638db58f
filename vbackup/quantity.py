"""Sizes, counts, durations and ages as people read them."""

from __future__ import annotations

from datetime import datetime

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """`0 B`, `17 KiB`, `1.2 GiB`: three digits at most before the unit grows."""
    value, unit = float(count), 0
    while abs(value) >= 1000 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    digits = 1 if unit and abs(value) < 10 else 0
    return f"{value:.{digits}f} {_SIZES[unit]}"


def amount(count: int, unit: str) -> str:
    """`1.2 GiB` for bytes, `12,345 points` for anything else."""
    return size(count) if unit == "bytes" else f"{count:,} {unit}"


def rate(per_second: float, unit: str) -> str:
    """`85 MiB/s`, `1,200 points/s`."""
    return f"{amount(round(per_second), unit)}/s"


def duration(seconds: float) -> str:
    """`0.3 s`, `12 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def age(at: datetime, now: datetime) -> str:
    """`just now`, `5 min ago`, `3 h ago`, `2 d ago`; times ahead read `in 5 min`."""
    seconds = (now - at).total_seconds()
    whole = int(abs(seconds))
    if whole < 60:
        return "just now"
    unit, length = next((u, n) for u, n in (("d", 86400), ("h", 3600), ("min", 60)) if whole >= n)
    text = f"{whole // length} {unit}"
    return f"{text} ago" if seconds > 0 else f"in {text}"


def moment(at: datetime, now: datetime) -> str:
    """Local time with its offset, and the age: `2026-11-23 01:40:00 +01:00 (5 min ago)`."""
    local = at.astimezone()
    offset = local.strftime("%z")
    return f"{local:%Y-%m-%d %H:%M:%S} {offset[:3]}:{offset[3:]} ({age(at, now)})"
