"""What can go wrong on a line, in our words; vendor libraries' exceptions stop at the driver.

DriverError
├── LineDownError         the line itself is not there; everything on it is unavailable
├── NotAskedError         the question was never put: back-off or a full queue
└── DeviceError           the line works, this device did not give what was asked
    ├── NoAnswerError
    ├── GarbledError
    ├── CollisionError
    └── RefusedError
"""

from protocols.model.reading import Reason


class DriverError(Exception):
    """Base of every field fault, each with the reason that a reading will carry."""

    reason: Reason


class LineDownError(DriverError):
    """The port is missing, the host is dead, the interface is mute or the line has no power."""

    reason = Reason.LINE_DOWN


class LineLostError(LineDownError):
    """The line went away in the middle of a transaction: what was asked may or may not have been done."""


class NotAskedError(DriverError):
    """The device was not asked: it is backed off, or the line's queue is full."""

    reason = Reason.BACKED_OFF


class DeviceError(DriverError):
    """One device failed to give what was asked; its neighbours are unharmed."""


class NoAnswerError(DeviceError):
    """The device stayed silent for as long as it may take to answer."""

    reason = Reason.NO_ANSWER


class GarbledError(DeviceError):
    """Something came back, and it was not a valid answer to our question."""

    reason = Reason.GARBLED


class CollisionError(DeviceError):
    """Several devices answered at once."""

    reason = Reason.COLLISION


class RefusedError(DeviceError):
    """The device answered that it would not.

    Attributes:
        code: the protocol's own number for why; 0 when it gave none.
    """

    reason = Reason.REFUSED

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code
