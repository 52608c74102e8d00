"""The environment variables of each profile; NumPy and torch read them once, when loaded."""

import os
import sys

from lockstep.ground.errors import EnvironmentMismatch

# One thread: how many there are changes the bits of convolutions and sums, and threads that wait
# for each other on shared cores cost more than they gain. Workers use many cores.
COMMON = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_DYNAMIC": "FALSE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
PROFILES = {
    # Kernels that every x86-64 CPU with AVX2 has, chosen alike on all of them.
    "portable": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "COMPATIBLE",
        # NumPy's and SciPy's: preprocessing that takes logarithms or projects on components.
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    # Whatever this CPU is best at.
    "native": {},
}
# Others that would change the bits, unset by every profile; among them oneDNN's old names.
_UNWANTED = {
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "OMP_THREAD_LIMIT",
    "ONEDNN_DEFAULT_FPMATH_MODE",
}
_OF_NUMPY = {"NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE"}
_EARLY: set[str] = set()
_OWNED = {name for profile in PROFILES.values() for name in profile} | _UNWANTED


def variables(profile: str) -> dict[str, str]:
    """Return the variables that a profile sets."""
    return COMMON | PROFILES[profile]


def differing(profile: str) -> dict[str, tuple[str | None, str | None]]:
    """Return name to (found, expected) of each variable that differs from the profile."""
    expected: dict[str, str | None] = dict.fromkeys(_OWNED) | variables(profile)
    return {
        name: (os.environ.get(name), value)
        for name, value in expected.items()
        if os.environ.get(name) != value
    }


def enter(profile: str) -> None:
    """Set a profile's variables in this process, before torch is loaded.

    Raises EnvironmentMismatch if torch was loaded under other variables, too late to change them.
    """
    differences = differing(profile)
    if differences and "torch" in sys.modules:
        name, (found, expected) = next(iter(differences.items()))
        raise EnvironmentMismatch(
            f"{name}: torch was loaded with {found or 'none'}, profile {profile} needs"
            f" {expected or 'none'}; start a new Python (in a notebook: restart the kernel) and"
            " train before anything imports torch."
        )
    if "numpy" in sys.modules and differences.keys() & _OF_NUMPY:
        _EARLY.add("numpy")
    for name, (_, expected) in differences.items():
        if expected is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = expected


def early() -> set[str]:
    """Return what was loaded before the profile, with kernels that this CPU alone may have."""
    return set(_EARLY)


def prefer(profile: str) -> bool:
    """Enter a profile if torch is not loaded yet; whether the profile is in force."""
    try:
        enter(profile)
    except EnvironmentMismatch:
        return False
    return True
