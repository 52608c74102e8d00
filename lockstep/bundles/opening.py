"""Opens bundles, packed or unpacked; checks digests, and signatures where a key is configured."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lockstep.bundles import archive, manifest
from lockstep.ground.errors import BundleError, LockstepError, ModelError

PUBLIC_KEY = "LOCKSTEP_PUBLIC_KEY"


def is_bundle(path: Path) -> bool:
    """Whether a path is a packed bundle or the folder of an unpacked one."""
    return path.is_file() or (path / manifest.NAME).exists()


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Verify a bundle and yield its folder; a packed one is unpacked into a temporary folder.

    Raises BundleError that names the file which was altered, added or is missing, or says that the
    signature is not by the owner of LOCKSTEP_PUBLIC_KEY. Errors name a packed bundle's own path, as
    the temporary folder is gone by then.
    """
    if path.is_dir():
        _verify(path, whole=False)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lockstep-bundle-") as folder:
        archive.unpack(path, Path(folder))
        try:
            _verify(Path(folder), whole=True)
            yield Path(folder)
        except LockstepError as error:  # also the caller's, who reads there
            error.args = (str(error).replace(folder, str(path)),)
            raise


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn any error while the files at a path are read into a ModelError of one line.

    For files whose digests are right: what is odd in them was made so by hand.
    """
    try:
        yield
    except (LockstepError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(
            f"{path}: not readable by this model ({reason}); it was altered, or belongs to other "
            "code. Restore a good copy, or the code that trained it."
        ) from error


def refuse_unsigned(path: Path) -> None:
    """Raise BundleError for anything but a bundle where a public key is configured.

    Otherwise a bundle without its manifest would pass as the folder of a run.
    """
    if key := os.environ.get(PUBLIC_KEY):
        raise BundleError(
            f"{path}: not a signed bundle, and {PUBLIC_KEY} ({key}) allows no other to be loaded; "
            "`invoke bundle` makes one, or unset it where models are trained."
        )


def _verify(folder: Path, *, whole: bool) -> None:
    with readable(folder):
        facts = manifest.verify(folder, whole=whole)
    if key := os.environ.get(PUBLIC_KEY):
        from lockstep.bundles import signature

        signature.verify(folder, Path(key), facts["files"])
