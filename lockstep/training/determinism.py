"""Makes torch compute the same bits again: one thread, fixed kernels, no state of chance."""

import ctypes
import functools
import os
import sys
import warnings
from typing import Any

import torch
from torch import nn

from lockstep.ground.errors import EnvironmentMismatch, ModelError

# Importing torch.distributed or a data loader later must not find another number of threads.
torch.set_num_threads(1)


@functools.cache
def enforce(profile: str, device: str) -> None:
    """Set up torch for a profile, once in a process, before the first tensor.

    Raises EnvironmentMismatch if this machine cannot keep the profile or has no such device.
    """
    _keep_freed_memory()
    # The same as use_deterministic_algorithms(True), without importing torch's compiler (0.5 s).
    torch.set_deterministic_debug_mode("error")
    # Deterministic mode also fills every new tensor with NaN, to show reads of unwritten memory;
    # that costs a pass over all activations.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.mha.set_fastpath_enabled(False)  # else evaluation has kernels of its own
    capability = torch.backends.cpu.get_cpu_capability()
    if profile == "portable" and capability != "AVX2":
        raise EnvironmentMismatch(
            f"training.profile: this process computes with {capability} kernels, portable needs "
            "AVX2; on a CPU without AVX2 use training.profile=native."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentMismatch(
            "training.device: found no usable GPU, expected cuda; check `invoke doctor`, or use "
            "training.device=cpu."
        )
    _products_by_onednn()
    _refuse_compilation()


def refuse_broken(model: nn.Module, device: str) -> None:
    """Raise ModelError for lazy layers, and for one whose gradient oneDNN writes out of bounds.

    That is a 1 x 1 convolution with a stride, on fewer than 8 channels that lie last, with AVX2
    kernels (uxlfoundation/oneDNN, issue 6035).
    """
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(parameter):
            raise ModelError(
                f"{name}: found a tensor without a shape, of a lazy layer, expected one; state the "
                "layer's sizes in Model.__init__."
            )
    for name, layer in model.named_modules():
        if (
            device == "cpu"
            and isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and layer.in_channels < 8
        ):
            raise ModelError(
                f"{name}: found a 1 x 1 convolution with stride {max(layer.stride)} on "
                f"{layer.in_channels} channels, expected at least 8, as oneDNN destroys memory "
                "with fewer; take more channels, or pool before a convolution without a stride."
            )


def _keep_freed_memory() -> None:
    """Have glibc keep freed activations, which it would give back and fault in again each step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)


@functools.cache
def _refuse_compilation() -> None:
    """Have a call of what ``torch.compile`` makes raise an error, before anything is compiled.

    Compiled code is of one CPU and one compiler, and of the shapes that a process saw first, so a
    resumed run could have other bits. Libraries may still use torch.compile on what nobody calls.
    The error is RuntimeError, whoever calls; loading torch's compiler to ask
    for it takes a second, so that is left until somebody else has loaded it.
    """
    usual = torch.compile

    @functools.wraps(usual)
    def compiled(*words: Any, **options: Any) -> Any:
        result = usual(*words, **options)
        torch.compiler.set_stance("fail_on_recompile")
        return result

    torch.compile = compiled
    if "torch._dynamo" in sys.modules:  # somebody may have used it already
        torch.compiler.set_stance("fail_on_recompile")


@functools.cache
def _products_by_onednn() -> None:
    """Send float32 matrix products on the CPU to oneDNN.

    MKL picks its kernels by the CPU's vendor, and its one mode that does not (COMPATIBLE) is twice
    as slow; oneDNN gives the same bits on every AVX2 CPU at the speed of MKL's best.
    """
    if os.uname().machine != "x86_64" or not torch.backends.mkldnn.is_available():
        return
    linear = torch.ops.mkldnn._linear_pointwise.default

    def by_onednn(*tensors: torch.Tensor) -> bool:
        return all(t.dtype is torch.float32 and t.numel() for t in tensors)

    def product_of(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        try:
            return linear(a, b.t(), bias, "none", [], "")  # type: ignore[no-any-return]
        except RuntimeError as error:
            if a.shape[1] == b.shape[0]:
                raise
            shapes = f"{a.shape[0]}x{a.shape[1]} and {b.shape[0]}x{b.shape[1]}"
            raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({shapes})") from error

    def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if by_onednn(a, b):
            return product_of(a, b, None)
        return torch.bmm(a[None], b[None])[0]

    def addmm(
        bias: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        *,
        beta: float = 1,
        alpha: float = 1,
    ) -> torch.Tensor:
        if beta == alpha == 1 and bias.dim() == 1 and by_onednn(bias, a, b):
            return product_of(a, b, bias)
        product = mm(a, b) * alpha
        return product + bias * beta if beta else product

    # Kept for as long as the process lives: the registration ends with the library object.
    library = _LIBRARIES.setdefault("aten", torch.library.Library("aten", "IMPL"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "overriding a kernel" is what we mean
        library.impl("mm", mm, "CPU")
        library.impl("addmm", addmm, "CPU")


_LIBRARIES: dict[str, torch.library.Library] = {}
