"""What can go wrong, by who can do something about it.

CentralError
├── StartError      nothing was started: the person at the terminal must change something
├── RequestError         a request cannot be met: the caller must change it; carries an HTTP status
├── MessageError         a cabinet's message is not accepted; carries the reason it is counted under
│   └── NotHeldError     another worker ingests that cabinet's shard
└── StoreError  the database does not take writes at the moment
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class CentralError(Exception):
    """Base of everything that the aggregator raises on purpose."""


class StartError(CentralError):
    """Nothing was started. The message names the place and the remedy."""


class StoreError(CentralError):
    """The database does not take writes at the moment: disk full, I/O error, queue full."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong in a request.

    Attributes:
        where: the key, such as "assignments[0].calendar"; "" for the whole.
        what: what was expected, and what stands there instead.
    """

    where: str
    what: str


class RequestError(CentralError):
    """A request that cannot be met, with every reason."""

    def __init__(self, status: int, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.faults = tuple(faults)


def not_found(what: str, name: str) -> RequestError:
    """Build the refusal of something that is not there."""
    return RequestError(404, f"there is no {what} {name!r}")


class RefusedFor(StrEnum):
    """Why a cabinet's message is not accepted: what refusals are counted under."""

    TOPIC = "topic"
    """The topic is none of ours."""
    DAMAGED = "damaged"
    """The bytes are not what they claim to be, or of a version that this end does not know."""
    FOREIGN = "foreign"
    """The message names another cabinet than its topic."""
    WRONG_STREAM = "wrong_stream"
    """The batch names another stream than its topic."""
    BEYOND_BOUNDS = "beyond_bounds"
    """A number that no honest cabinet reaches, or more of something than this end holds."""
    FOREIGN_DEVICE = "foreign_device"
    """A device that belongs to another cabinet."""
    UNLISTED_DEVICE = "unlisted_device"
    """A snapshot of a device that its cabinet's hello did not list."""
    FOREIGN_COMMAND = "foreign_command"
    """An answer to a command that went to another cabinet."""
    UNREADABLE = "unreadable"
    """A batch that arrived whole and says nonsense: its bytes are set aside, its stream goes on."""
    NOT_STORED = "not_stored"
    """This end failed while it stored the message."""
    NOT_HELD = "not_held"
    """Another worker ingests this cabinet's shard: it will see to the message."""
    QUEUE_FULL = "queue_full"
    """This end could not keep up; the cabinet sends again."""


class MessageError(CentralError):
    """A cabinet's message that is not accepted."""

    def __init__(self, reason: RefusedFor, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class NotHeldError(MessageError):
    """A message of a shard that another worker ingests. No fault of the cabinet's."""
