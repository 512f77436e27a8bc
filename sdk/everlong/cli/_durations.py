"""How times read: instants in UTC, durations as people say them."""

from datetime import UTC, datetime

__all__ = ["ago", "clock_time", "instant", "now", "span"]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def now() -> datetime:
    """The machine's time; the CLI compares it with what is stored."""
    return datetime.now(UTC)


def span(seconds: float) -> str:
    """A duration in at most two units: 40 ms, 1.2 s, 3 min 20 s, 2 h 59 min, 4 d 2 h."""
    seconds = max(seconds, 0.0)
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return _two(whole, _MINUTE, "min", 1, "s")
    if whole < _DAY:
        return _two(whole, _HOUR, "h", _MINUTE, "min")
    return _two(whole, _DAY, "d", _HOUR, "h")


def _two(whole: int, unit: int, name: str, smaller: int, smaller_name: str) -> str:
    rest = whole % unit // smaller
    return f"{whole // unit} {name} {rest} {smaller_name}" if rest else f"{whole // unit} {name}"


def ago(then: datetime, today: datetime) -> str:
    """How long ago, in its larger unit only: 3 min ago."""
    seconds = (today - then).total_seconds()
    if seconds < 1:
        return "just now"
    words = span(seconds).split(" ")
    return f"{words[0].partition('.')[0]} {words[1]} ago"


def instant(at: datetime) -> str:
    """2026-07-29 10:03:12 UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock_time(at: datetime, since: datetime) -> str:
    """10:03:12.412, and how many days after `since` when it is another day."""
    at, since = at.astimezone(UTC), since.astimezone(UTC)
    text = at.strftime("%H:%M:%S.") + f"{at.microsecond // 1000:03}"
    days = (at.date() - since.date()).days
    return f"{text} +{days}d" if days else text
