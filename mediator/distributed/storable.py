"""Storable: the lengths and conversions that make a text or a time fit into every supported database.

The tables take their column lengths from here. PostgreSQL refuses a text that is too long for its column, a NUL
character, and characters that UTF-8 cannot encode.
"""

import hashlib
from datetime import UTC, datetime

LONGEST_GROUP = 64
"""Longest name of a consumer group, in characters."""
LONGEST_EVENT_ID = 64
"""Longest id of an event of this application, in characters."""
LONGEST_TEXT = 255
"""Longest source, type, partition key and foreign event id, in characters. Every database can index this length."""
LONGEST_TIME = 40
"""Longest stored time, in characters."""
LONGEST_MEDIA_TYPE = 127
"""Longest media type, in characters."""
LARGEST_NUMBER = 2**63 - 1


def text_or_hash(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return the text, or its SHA-256 hash if the text is too long for a column or has unprintable characters."""
    if len(text) <= longest and text.isprintable():
        return text
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def is_storable(text: str, longest: int = LONGEST_TEXT) -> bool:
    """Return whether every database can store the text unchanged in a column of `longest` characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return len(text) <= longest and "\0" not in text


def time_text(time: datetime) -> str:
    """Return the text under which a time is stored: ISO 8601 in UTC.

    UTC keeps the text short enough for its column. The offset of another time zone may be as long as
    `+01:00:00.000001`. A time outside the years 1 to 9999 in UTC raises an `OverflowError`.
    """
    return time.astimezone(UTC).isoformat()
