"""Why an advert is not believed. A refusal is counted by its name; it never becomes a value."""

from enum import StrEnum

from protocols.errors import RemoteProtocolError


class Refusal(StrEnum):
    """What is wrong with an advert."""

    LENGTH = "length"
    """Too short for what it claims to be, or longer than an advert can be."""
    VERSION = "version"
    """Another version of the format."""
    RESERVED = "reserved"
    """A bit is set whose meaning is not published: what follows may mean anything."""
    ORDER = "order"
    """Object ids do not ascend, so where one ends cannot be trusted."""
    TRUNCATED = "truncated"
    """The last object is cut off."""
    EMPTY = "empty"
    """It says nothing."""
    KIND = "kind"
    """A kind of frame that carries no readings, or that nobody here can read."""
    NO_KEY = "no_key"
    """It is encrypted, and its device's key is not known here."""
    FORGED = "forged"
    """Its tag does not fit: another key, a changed frame, or somebody else sent it."""
    PLAIN = "plain"
    """It is not encrypted, although its device has a key: anybody could have sent it."""
    COUNTER_BACK = "counter_back"
    """Its counter is below the last one: it was recorded and sent again, or the sensor began anew at zero."""
    FLOOD = "flood"
    """More than a sensor has to say."""


class RefusedError(RemoteProtocolError):
    """An advert that is not believed.

    Attributes:
        refusal: why, to be counted by.
    """

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal
