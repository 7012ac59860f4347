"""What a program file says of itself: SHA-256 of its parts, who made it of what, and who signed that."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lepton.rtl.spec.version import version
from lepton.sw.arrays import BOUNDED
from lepton.sw.errors import LeptonError, need
from lepton.sw.files import check_output, read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MANIFEST, SIGNATURE = "manifest.json", "signature.bin"
SIGNATURE_BYTES, MAX_KEY = 64, 1 << 14


class IntegrityError(LeptonError, ValueError):
    """A signature or a key that is not what it should be; one line says which and what would help."""


def manifest(members: Mapping[str, bytes], made: Mapping[str, str]) -> bytes:
    """The manifest of a program file; `made` tells where it comes from."""
    digests = {name: sha256(data) for name, data in members.items()}
    return json.dumps({"lepton": version(), **made, "sha256": digests}, indent=1).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sign(data: bytes, key: Path) -> bytes:
    """The program file with a signature of its manifest, in place of one that it may have. Raises IntegrityError."""
    need("sign", "cryptography")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names = [MANIFEST, *json.loads(file.read(MANIFEST))["sha256"]]
        members = {name: file.read(name) for name in names}
    return archive(members | {SIGNATURE: _private(key).sign(members[MANIFEST])})


def verify(data: bytes, key: Path, name: str) -> None:
    """Raises IntegrityError unless the manifest of program file `name` is signed by the owner of the public key. That
    its parts are those of the manifest is checked by who reads them."""
    need("sign", "cryptography")
    from cryptography.exceptions import InvalidSignature

    with zipfile.ZipFile(io.BytesIO(data)) as file:
        if SIGNATURE not in file.namelist():
            raise IntegrityError(f"{name}: not signed: `lepton sign {name} --key KEY`, by who has the private key")
        owner = _public(key)
        try:
            owner.verify(read(file, SIGNATURE, SIGNATURE_BYTES), file.read(MANIFEST))
        except (InvalidSignature, zipfile.BadZipFile, ValueError):
            why = f"the signature is not by {key}, or the file was changed: do not run it"
            raise IntegrityError(f"{name}: {why}") from None


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


def read(file: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member of at most `limit` bytes, packed so that no more can come out. Raises what damage raises."""
    info = file.getinfo(name)
    if info.compress_type not in BOUNDED:
        raise ValueError(f"{name} is packed by method {info.compress_type}")
    if info.file_size > limit:
        raise ValueError(f"{name} has {info.file_size:,} bytes, at most {limit:,} are possible")
    return file.read(info)


def _private(path: Path) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = _loaded(path, lambda text: load_pem_private_key(text, None))
    if not isinstance(key, Ed25519PrivateKey):
        raise IntegrityError(f"{path}: not a private Ed25519 key without a password: `lepton sign --new-key` makes one")
    return key


def _public(path: Path) -> "Ed25519PublicKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = _loaded(path, load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise IntegrityError(f"{path}: not a public Ed25519 key: `lepton sign --new-key KEY` writes it as KEY.pub")
    return key


def _loaded(path: Path, load: Callable[[bytes], object]) -> object:
    """The key in a file; None if it holds none that can be used."""
    text = read_file(path, MAX_KEY, IntegrityError)
    try:
        return load(text)
    except (ValueError, TypeError):
        return None
