"""Opening a bundle: digests always, the signature where a key is configured."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

from lockstep.bundles import manifest, signature
from lockstep.bundles.archive import packed
from lockstep.bundles.opening import is_bundle, opened
from lockstep.ground.errors import BundleError
from lockstep.tests.conftest import ROOT
from lockstep.tests.trees import offline

FACTS = {"model": "digits", "version": "0.1.0+00000001", "profile": "portable"}
FILES = {"weights.safetensors": b"weights", "receipt.json": b"{}", "code/inference.py": b"a = 1\n"}


def unpacked(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """A bundle's folder."""
    for name, content in (files | {manifest.NAME: manifest.make(files, FACTS)}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as told, opened(path):
        pass
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The private key of a pair whose public key is configured."""
    private, public = signature.make_keys(tmp_path / "keys")
    monkeypatch.setenv("LOCKSTEP_PUBLIC_KEY", str(public))
    return private


@pytest.mark.parametrize("name", FILES)
def test_an_altered_or_missing_file_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    bundle = unpacked(tmp_path / "bundle")
    with opened(bundle) as folder:
        assert (folder, is_bundle(folder)) == (bundle, True)
    (bundle / name).write_bytes(FILES[name] + b" ")
    assert refused(bundle).startswith(f"{bundle / name}: found sha256 ")
    (bundle / name).unlink()
    assert refused(bundle).startswith(f"{bundle / name}: missing")
    (bundle / name).symlink_to("/dev/null")
    assert refused(bundle).startswith(f"{bundle / name}: missing, or not a plain file")


def test_a_packed_bundle_is_told_by_its_own_path(tmp_path: Path) -> None:
    altered = FILES | {manifest.NAME: manifest.make(FILES, FACTS), "receipt.json": b"[]"}
    (tmp_path / "a").write_bytes(packed(altered))
    assert refused(tmp_path / "a").startswith(f"{tmp_path / 'a'}/receipt.json: found sha256 ")
    added = FILES | {manifest.NAME: manifest.make(FILES, FACTS), "more": b""}
    (tmp_path / "a").write_bytes(packed(added))
    assert refused(tmp_path / "a").startswith(f"{tmp_path / 'a'}/more: not in the manifest")


def test_code_that_was_added_is_refused_and_what_a_server_puts_beside_is_not(
    tmp_path: Path,
) -> None:
    bundle = unpacked(tmp_path / "bundle")
    (bundle / "log").write_text("of a server")
    (bundle / "code" / "__pycache__").mkdir()
    (bundle / "code" / "__pycache__" / "inference.cpython-311.pyc").write_bytes(b"")
    with opened(bundle):
        pass
    (bundle / "code" / "json.py").write_text("would be found before Python's own")
    assert refused(bundle).startswith(f"{bundle / 'code' / 'json.py'}: not in the manifest")
    (bundle / "code" / "json.py").unlink()
    (bundle / "code" / "json").symlink_to(tmp_path)
    assert refused(bundle).startswith(f"{bundle / 'code' / 'json'}: not in the manifest")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"schema": 2}', b'{"schema": 1, "files": {"../a": 1}}']
)
def test_what_is_no_manifest_is_reported_in_one_line(content: bytes, tmp_path: Path) -> None:
    bundle = unpacked(tmp_path / "bundle")
    (bundle / manifest.NAME).write_bytes(content)
    assert refused(bundle).startswith(f"{bundle / manifest.NAME}: ")


def test_what_the_owner_of_the_key_signed_is_opened(keys: Path, tmp_path: Path) -> None:
    bundle = unpacked(tmp_path / "bundle")
    assert "not signed, and a public key is configured" in refused(bundle)
    signature.sign(bundle, keys)
    with opened(bundle) as folder:
        assert folder == bundle
    files = {name: (bundle / name).read_bytes() for name in (*FILES, "manifest.json")}
    files["signature.json"] = (bundle / "signature.json").read_bytes()
    (tmp_path / "a").write_bytes(packed(files))
    with opened(tmp_path / "a") as folder:
        assert (folder / "receipt.json").read_bytes() == b"{}"


@pytest.mark.slow
def test_others_check_a_signature_by_the_tool_of_its_makers_without_a_network(
    keys: Path, tmp_path: Path
) -> None:
    bundle = unpacked(tmp_path / "bundle")
    signature.sign(bundle, keys)
    path = bundle / "signature.json"
    words: list[str | Path] = [Path(sys.executable).with_name("model_signing"), "verify", "key"]
    words += [bundle, "--signature", path, "--public_key", keys.with_name("lockstep.pub")]
    codes = [subprocess.run(offline(*words), capture_output=True).returncode]
    (bundle / "weights.safetensors").write_bytes(b"others!")
    codes.append(subprocess.run(offline(*words), capture_output=True).returncode)
    assert codes == [0, 1]


def test_weights_and_manifest_altered_together_are_refused(keys: Path, tmp_path: Path) -> None:
    bundle = unpacked(tmp_path / "bundle")
    signature.sign(bundle, keys)
    unpacked(bundle, FILES | {"weights.safetensors": b"others"})
    assert refused(bundle).startswith(f"{bundle / 'signature.json'}: not the signature of these")


def test_the_signature_of_something_else_by_the_same_key_is_refused(
    keys: Path, tmp_path: Path
) -> None:
    other, bundle = tmp_path / "other", unpacked(tmp_path / "bundle")
    other.mkdir()
    (other / "note").write_bytes(b"signed, but no bundle")
    signature.sign(other, keys)
    for name in ("note", "signature.json"):
        (bundle / name).write_bytes((other / name).read_bytes())
    assert refused(bundle).startswith(f"{bundle / 'signature.json'}: signs other files")


def test_another_key_and_what_is_no_key_are_refused(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = unpacked(tmp_path / "bundle")
    other, _ = signature.make_keys(tmp_path / "others")
    signature.sign(bundle, other)
    assert "or another key signed it" in refused(bundle)
    (bundle / "signature.json").write_bytes(b"{}")
    assert "not the signature of these files" in refused(bundle)
    for name, told in (
        ("none", "not readable as a key"),
        ("bundle/receipt.json", "not a public key"),
    ):
        monkeypatch.setenv("LOCKSTEP_PUBLIC_KEY", str(tmp_path / name))
        assert refused(bundle).startswith(f"{tmp_path / name}: {told}")
    with pytest.raises(BundleError, match="not a private key of the elliptic"):
        signature.sign(bundle, bundle / "receipt.json")


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "x25519", "secp256k1", "with a password"])
def test_a_key_of_another_kind_is_reported_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Callable[[], Any]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "x25519": x25519.X25519PrivateKey.generate,
        "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "with a password": lambda: ec.generate_private_key(ec.SECP256R1()),
    }
    key, closed = made[kind](), kind == "with a password"
    form = forms.BestAvailableEncryption(b"x") if closed else forms.NoEncryption()
    private, public = tmp_path / "private", tmp_path / "public"
    private.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, form))
    public.write_bytes(
        key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    )
    bundle = unpacked(tmp_path / "bundle")
    with pytest.raises(BundleError, match=f"^{private}: not a private key of the elliptic") as told:
        signature.sign(bundle, private)
    assert "\n" not in str(told.value)
    if not closed:
        signature.sign(bundle, signature.make_keys(tmp_path / "keys")[0])
        monkeypatch.setenv("LOCKSTEP_PUBLIC_KEY", str(public))
        assert refused(bundle).startswith(f"{public}: not a public key of the elliptic")


def test_a_private_key_is_its_owners_alone_and_is_never_written_over(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private, public = signature.make_keys(tmp_path / "keys")
    finally:
        os.umask(before)
    content = private.read_bytes()
    assert [oct(path.stat().st_mode & 0o777) for path in (private.parent, private)] == [
        "0o700",
        "0o600",
    ]
    with pytest.raises(BundleError, match="already exists"):
        signature.make_keys(tmp_path / "keys")
    private.unlink()
    with pytest.raises(BundleError, match="already exists"):
        signature.make_keys(tmp_path / "keys")
    assert (b"PRIVATE" in content, b"PRIVATE" in public.read_bytes()) == (True, False)
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "keys/lockstep.key"], cwd=ROOT)
    assert ignored.returncode == 0


@pytest.mark.slow
def test_the_library_of_signatures_is_loaded_only_for_one(tmp_path: Path) -> None:
    bundle = unpacked(tmp_path / "bundle")
    script = f"""
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
import lockstep.answers.predictor
from lockstep.bundles.opening import opened
with opened(Path({str(bundle)!r})):
    print(sorted({{"model_signing", "cryptography", "sigstore"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
