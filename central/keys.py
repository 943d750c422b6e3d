"""The key with which the centre stands for its policies: made once, kept 0600, shown never."""

import base64
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from central.errors import StartError
from central.policies import SigningKey
from protocols.model.ids import ID_RULE, KeyId, is_id
from protocols.model.policy import PolicyKind

SUFFIX = ".pem"


def make(folder: Path, name: str) -> Path:
    """Make a key called `name` and keep it in `folder`; return its file.

    Raises:
        StartError: if the name cannot be one, the key is there already, or the folder cannot be written.
    """
    if not is_id(name):
        raise StartError(f"--name: {name!r} cannot be a key's name; expected {ID_RULE}")
    path = folder / f"{name}{SUFFIX}"
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            os.fsync(file.fileno())
    except FileExistsError:
        raise StartError(
            f"{path}: is there already; a key that cabinets trust is not replaced: choose another --name"
        ) from None
    except OSError as error:
        raise StartError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def load(path: Path) -> SigningKey:
    """Read a key; its name is its file's, without the suffix.

    Raises:
        StartError: if it is not there, is no Ed25519 key, or others can read it.
    """
    try:
        pem = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise StartError(f"{path}: cannot be read: {error.strerror}; make a key with 'key init'") from error
    if mode & 0o077:
        raise StartError(f"{path}: others may read this private key; run: chmod 600 {path}")
    if not is_id(path.stem):
        raise StartError(f"{path}: {path.stem!r} cannot be a key's name; expected {ID_RULE}")
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StartError(f"{path}: is no unencrypted private key in PEM: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise StartError(f"{path}: is no Ed25519 key; make one with 'key init'")
    return SigningKey(KeyId(path.stem), private)


def snippet(key: SigningKey) -> str:
    """Return what makes a cabinet trust a key, for its settings file."""
    public = base64.b64encode(key.trusted().public).decode()
    kinds = ", ".join(f'"{kind.value}"' for kind in PolicyKind)
    return f'[[trusted_key]]\nid = "{key.id}"\npublic = "{public}"\nkinds = [{kinds}]\n'
