"""ProtocolParser: nats-py's parser, which also reads messages on subjects that are none.

The server takes any bytes but blanks and line ends for a token of a subject. To nats-py two more are blanks: it reads a
message on such a subject as garbage, connects anew, is sent it again, and so on without end.
"""

from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

_LINE_END = b"\r\n"
_READABLE = bytes.maketrans(b"\v\f\r", b"???")


class ProtocolParser(Parser):
    """Reads what a server sends."""

    async def parse(self, data: bytes = b"") -> None:
        """Read on; in the subject of a message, what nats-py takes for blanks is read as question marks."""
        while True:
            try:
                await super().parse(data)
            except ProtocolError:
                if not self._made_readable():
                    raise
            else:
                if not self._made_readable():
                    return
            data = b""

    def _made_readable(self) -> bool:
        """Whether the line at which nats-py gave up, or waits for more, is another one now."""
        end = self.buf.find(_LINE_END)
        if self.state != AWAITING_CONTROL_LINE or end < 0:
            return False
        line = self.buf[:end]
        self.buf[:end] = line.translate(_READABLE)
        return self.buf[:end] != line
