"""Whose fault it is, said by the type.

    ProtocolError
    ├── LocalProtocolError    we were asked to write something that the protocol cannot say
    └── RemoteProtocolError   a peer sent bytes that mean nothing, or not what they claim

Any other exception that leaves a codec is a bug in the codec.
"""


class ProtocolError(Exception):
    """Base of everything that a codec raises."""


class LocalProtocolError(ProtocolError):
    """We misused the protocol: the caller must change."""


class RemoteProtocolError(ProtocolError):
    """The peer misused the protocol: count it, name it, go on."""
