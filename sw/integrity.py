"""What a program file says of itself: SHA-256 of its parts, who made it of what, and who signed that."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from lepton.sw.errors import LeptonError, need
from lepton.sw.files import check_output, read_file

MANIFEST, SIGNATURE = "manifest.json", "signature.bin"
SIGNATURE_BYTES, MAX_KEY = 64, 1 << 14


class IntegrityError(LeptonError, ValueError):
    """A signature or a key that is not what it should be; one line says which and what would help."""


def manifest(members: Mapping[str, bytes], made: Mapping[str, str]) -> bytes:
    """The manifest of a program file; `made` tells where it comes from."""
    try:
        version = metadata.version("lepton-npu")
    except metadata.PackageNotFoundError:
        version = "unknown"
    digests = {name: sha256(data) for name, data in members.items()}
    return json.dumps({"lepton": version, **made, "sha256": digests}, indent=1).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sign(data: bytes, key: Path) -> bytes:
    """The program file with a signature of its manifest, in place of one that it may have. Raises IntegrityError."""
    members = _members(data)
    members[SIGNATURE] = _private(key).sign(members[MANIFEST])
    return archive(members)


def verify(data: bytes, key: Path, name: str) -> None:
    """Raises IntegrityError unless the manifest of program file `name` is signed by the owner of the public key. That
    its parts are those of the manifest is checked by who reads them."""
    need("sign", "cryptography")
    from cryptography.exceptions import InvalidSignature

    members = _members(data)
    if SIGNATURE not in members:
        raise IntegrityError(f"{name}: not signed: `lepton sign {name} --key KEY`, by who has the private key")
    try:
        _public(key).verify(members[SIGNATURE], members[MANIFEST])
    except InvalidSignature:
        raise IntegrityError(f"{name}: the signature is not by {key}, or the file was changed: do not run it") from None


def new_key(path: Path) -> Path:
    """Write a private key, for its owner's eyes alone, and the public one beside it, whose path is returned."""
    need("sign", "cryptography")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = path.with_name(path.name + ".pub")
    for file in (path, public):
        check_output(file)
        if file.exists():
            raise IntegrityError(f"{file}: is there already; a key is not written over: give another name")
    key = Ed25519PrivateKey.generate()
    private_text = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(private_text)
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return public


def archive(members: Mapping[str, bytes]) -> bytes:
    """A zip of these, always the same bytes for the same members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    """Of a program file that was read before."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def _private(path: Path):
    need("sign", "cryptography")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_file(path, MAX_KEY, IntegrityError), None)
    except (ValueError, TypeError) as error:
        if isinstance(error, IntegrityError):
            raise
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise IntegrityError(f"{path}: not a private Ed25519 key without a password: `lepton sign --new-key` makes one")
    return key


def _public(path: Path):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_file(path, MAX_KEY, IntegrityError))
    except ValueError as error:
        if isinstance(error, IntegrityError):
            raise
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise IntegrityError(f"{path}: not a public Ed25519 key: `lepton sign --new-key KEY` writes it as KEY.pub")
    return key
