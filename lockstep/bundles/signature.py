"""Signatures of bundles by the team's own key, checked without a network.

model-signing (OpenSSF) makes and checks them, so others can check them without this package; it is
loaded when there is something to sign or to check.
"""

import base64
import json
import os
from pathlib import Path
from typing import Any

from lockstep.bundles import manifest
from lockstep.ground.errors import BundleError
from lockstep.ground.files import write_errors

PRIVATE, PUBLIC = "lockstep.key", "lockstep.pub"
_CURVES = "the elliptic curve P-256, P-384 or P-521"


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Write a new pair of keys (P-256, PEM); only the owner can read the private one.

    Returns the paths of the private and the public key. Raises BundleError if either exists.
    """
    _library()
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem, plain = forms.Encoding.PEM, forms.NoEncryption()
    private = key.private_bytes(pem, forms.PrivateFormat.PKCS8, plain)
    public = key.public_key().public_bytes(pem, forms.PublicFormat.SubjectPublicKeyInfo)
    if existing := [name for name in (PRIVATE, PUBLIC) if (folder / name).exists()]:
        raise BundleError(
            f"{folder / existing[0]}: already exists, and what it signed could not be checked "
            "without it; choose another folder (--output FOLDER)."
        )
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, content, mode in ((PRIVATE, private, 0o600), (PUBLIC, public, 0o644)):
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    return folder / PRIVATE, folder / PUBLIC


def sign(folder: Path, private_key: Path) -> None:
    """Write ``signature.json`` over all files of an unpacked bundle."""
    signing, hashing, _ = _library()
    ignored = hashing.Config().set_ignored_paths(paths=[manifest.SIGNATURE], ignore_git_paths=False)
    path = _key(private_key)
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=path)
    except Exception as error:  # whatever the library makes of a key of another kind
        raise BundleError(
            f"{private_key}: not a private key of {_CURVES} ({_line(error)}); "
            "`invoke keys` makes one."
        ) from error
    signer.set_hashing_config(ignored).sign(folder, folder / manifest.SIGNATURE)


def verify(folder: Path, public_key: Path, files: dict[str, Any]) -> None:
    """Check that the key's owner signed the manifest and its files. Raises BundleError if not."""
    _, _, verifying = _library()
    path = folder / manifest.SIGNATURE
    if not path.is_file():
        raise BundleError(
            f"{folder}: not signed, and a public key is configured ({public_key}); sign the "
            "bundle, or unset LOCKSTEP_PUBLIC_KEY to trust it as it is."
        )
    key = _key(public_key)
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:  # whatever the library makes of a key of another kind
        raise BundleError(
            f"{public_key}: not a public key of {_CURVES} ({_line(error)}); "
            "`invoke keys` makes a pair."
        ) from error
    try:
        verifier.set_ignore_unsigned_files(True).verify(folder, path)
        envelope = json.loads(path.read_bytes())["dsseEnvelope"]
        payload = json.loads(base64.b64decode(envelope["payload"]))
        signed = {row["name"] for row in payload["predicate"]["resources"]}
    except Exception as error:  # whatever an altered file leads to
        raise BundleError(
            f"{path}: not the signature of these files by {public_key} ({_line(error)}); the "
            "bundle was altered, or another key signed it."
        ) from error
    if signed != {*files, manifest.NAME}:  # by the same key
        raise BundleError(f"{path}: signs other files than the manifest names; it was altered.")


def _library() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise BundleError(
            "signature: model-signing is not installed, so none can be made or checked; "
            "./workbench installs the locked packages."
        ) from error
    return signing, hashing, verifying


def _key(path: Path) -> Path:
    try:
        path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: not readable as a key ({error.strerror}); `invoke keys` makes a pair."
        ) from error
    return path


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
