"""How an OPC UA connection is secured, and why one could not be made, in words for a person."""

import os
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from asyncua import ua
from asyncua.crypto import security_policies
from asyncua.ua.uaerrors import UaError, UaStatusCodeError
from cryptography import x509

from drivers.errors import LineDownError
from drivers.opcua_certificates import Identity
from drivers.settings import OpcUa

POLICIES: Final = {
    "Basic256Sha256": security_policies.SecurityPolicyBasic256Sha256,
    "Aes128Sha256RsaOaep": security_policies.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256Sha256RsaPss": security_policies.SecurityPolicyAes256Sha256RsaPss,
}
MODES: Final = {
    "sign": ua.MessageSecurityMode.Sign,
    "sign_and_encrypt": ua.MessageSecurityMode.SignAndEncrypt,
}
_Codes: Final = ua.StatusCodes
LOST: Final = frozenset(
    {
        _Codes.BadSessionIdInvalid,
        _Codes.BadSessionClosed,
        _Codes.BadSessionNotActivated,
        _Codes.BadSecureChannelIdInvalid,
        _Codes.BadSecureChannelClosed,
        _Codes.BadSecureChannelTokenUnknown,
        _Codes.BadConnectionClosed,
        _Codes.BadServerHalted,
        _Codes.BadShutdown,
        _Codes.BadSecurityChecksFailed,
        _Codes.BadSubscriptionIdInvalid,
        _Codes.BadNoSubscription,
    }
)
"""Service results after which this client is of no use any more."""
OWN_CERTIFICATE: Final = frozenset(
    {
        _Codes.BadSecurityChecksFailed,
        _Codes.BadCertificateUntrusted,
        _Codes.BadCertificateInvalid,
        _Codes.BadCertificateTimeInvalid,
        _Codes.BadCertificateUriInvalid,
        _Codes.BadCertificateUseNotAllowed,
        _Codes.BadCertificateChainIncomplete,
        _Codes.BadCertificateRevoked,
    }
)
USER: Final = frozenset(
    {
        _Codes.BadUserAccessDenied,
        _Codes.BadIdentityTokenInvalid,
        _Codes.BadIdentityTokenRejected,
        _Codes.BadUserSignatureInvalid,
    }
)


def status_name(code: int) -> str:
    """Return a StatusCode's name in the standard, for a person."""
    name: str = ua.status_codes.get_name_and_doc(code & 0xFFFF_0000)[0]
    return name


class Security:
    """How a connection is secured: by which policy, with which certificates."""

    def __init__(self, settings: OpcUa, identity: Identity, server: x509.Certificate) -> None:
        self.uri = identity.uri
        self.file = identity.file
        self.policy = POLICIES[settings.security](
            server, identity.certificate, identity.key, MODES[settings.mode]
        )


class Offer:
    """What a server offers for the policy that we want: its certificate, and what it says that it is."""

    def __init__(self, certificate: bytes, uri: str) -> None:
        self.certificate = certificate
        self.uri = uri


def offered(endpoints: Sequence[ua.EndpointDescription]) -> str:
    """Return which policies and modes a server offers, for a person."""
    said = [
        f"{(one.SecurityPolicyUri or '').rpartition('#')[2]} with {one.SecurityMode.name}"
        for one in endpoints
    ]
    return ", ".join(said[:8])[:300] or "nothing"


def _in_words(fault: OSError) -> str:
    """Return why a host cannot be reached, in the system's words instead of asyncio's."""
    if fault.errno is None or isinstance(fault, socket.gaierror):
        return fault.strerror or str(fault)
    return os.strerror(fault.errno)


class Reasons:
    """Turn whatever connecting raises into a LineDownError with a reason for a person."""

    def __init__(self, settings: OpcUa, security: Security | None = None) -> None:
        self._url = urlsplit(settings.url)
        self._settings = settings
        self._security = security

    async def __aenter__(self) -> None:
        return

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, _: object
    ) -> None:
        if fault is None or isinstance(fault, LineDownError) or not isinstance(fault, Exception):
            return
        raise LineDownError(self._reason(fault)) from fault

    def _reason(self, fault: Exception) -> str:
        where = f"{self._url.hostname}:{self._url.port}"
        match fault:
            case TimeoutError():
                return f"{where} does not answer within {self._settings.timeout_s:g} s"
            case UaStatusCodeError():
                return self._refusal(fault.code)
            case UaError() if "No matching endpoints" in str(fault):  # asyncua has no type for it
                return f"the server does not offer security {self._settings.security!r}"
            case OSError():
                return f"{where}: {_in_words(fault)}"
            case _:
                return (
                    f"{where} does not speak OPC UA as it should: {str(fault)[:200] or type(fault).__name__}"
                )

    def _refusal(self, code: int) -> str:
        name = status_name(code)
        if code in OWN_CERTIFICATE and self._security is not None:
            return (
                f"the server refuses this cabinet's certificate ({name}): trust {self._security.file} there"
            )
        if code in USER:
            return f"the server refuses {self._settings.user or 'a client without a user'} ({name})"
        return f"the server refuses: {name}"
