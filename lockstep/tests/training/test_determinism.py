"""Profiles: variables, threads, kernels."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lockstep.ground import profiles
from lockstep.ground.errors import EnvironmentMismatch, ModelError
from lockstep.ground.generators import reseed
from lockstep.tests.conftest import ROOT
from lockstep.training.determinism import enforce, refuse_broken

enforce("portable", "cpu")


def test_a_process_has_one_thread_and_the_kernels_of_its_profile() -> None:
    assert torch.get_num_threads() == 1
    assert torch.backends.cpu.get_cpu_capability() == "AVX2"


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 1), (64, 784, 256), (128, 10, 3)])
def test_matrix_products_are_right(shape: tuple[int, int, int]) -> None:
    n, k, m = shape
    reseed(3)
    a, b, bias = torch.randn(n, k), torch.randn(k, m), torch.randn(m)
    exact = a.double().numpy() @ b.double().numpy()
    for found in (a @ b, torch.mm(a, b), torch.mm(b.t(), a.t()).t()):
        torch.testing.assert_close(found.double(), torch.from_numpy(exact), atol=1e-4, rtol=1e-4)
    wanted = torch.from_numpy(exact) + bias
    torch.testing.assert_close(torch.addmm(bias, a, b).double(), wanted, atol=1e-4, rtol=1e-4)
    full = torch.addmm(wanted.float(), a, b, beta=2, alpha=3).double()
    torch.testing.assert_close(full, 2 * wanted + 3 * exact, atol=1e-3, rtol=1e-4)


def test_products_that_onednn_cannot_do_still_work() -> None:
    whole = torch.arange(6).reshape(2, 3)
    assert torch.mm(whole, whole.t()).tolist() == [[5, 14], [14, 50]]
    assert torch.mm(torch.empty(0, 3), torch.empty(3, 2)).shape == (0, 2)
    assert torch.mm(torch.ones(2, 0), torch.ones(0, 2)).tolist() == [[0, 0], [0, 0]]


def test_a_product_does_not_depend_on_who_else_is_in_the_batch() -> None:
    reseed(4)
    a, b = torch.randn(128, 300), torch.randn(300, 50)
    assert torch.equal((a @ b)[:64], a[:64] @ b)


def test_reseeding_repeats_every_kind_of_chance() -> None:
    def drawn() -> list[float]:
        reseed(5)
        kinds = (torch.randn(4), torch.rand(4), torch.randperm(9), torch.empty(4).bernoulli_())
        return [*torch.cat(kinds).tolist(), np.random.rand(), random.random()]

    assert drawn() == drawn()


def test_operations_without_a_deterministic_kind_are_refused() -> None:
    assert torch.are_deterministic_algorithms_enabled()


def test_a_profile_cannot_be_entered_after_torch() -> None:
    with pytest.raises(EnvironmentMismatch, match="start a new Python"):
        profiles.enter("native")


def test_what_the_user_set_is_overruled() -> None:
    code = (
        "from lockstep.ground import profiles; profiles.enter('portable');"
        "from lockstep.training.determinism import enforce; enforce('portable', 'cpu');"
        "import torch; print(torch.get_num_threads(), torch.backends.cpu.get_cpu_capability())"
    )
    foreign = {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "3", "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | foreign, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1", "AVX2"]


@pytest.mark.parametrize("profile", ["portable", "native"])
def test_variables_that_would_change_the_bits_are_taken_away(profile: str) -> None:
    """DNNL_MAX_CPU_ISA=SSE41 gave ``native`` other bits under the same identity."""
    code = (
        f"import os; from lockstep.ground import profiles; profiles.enter('{profile}');"
        "print([n for n in os.environ if n.startswith(('DNNL_', 'ONEDNN_DEFAULT', 'MKL_ENABLE'))])"
    )
    foreign = {
        "DNNL_MAX_CPU_ISA": "SSE41",
        "DNNL_DEFAULT_FPMATH_MODE": "BF16",
        "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | foreign, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(EnvironmentMismatch, match="no usable GPU"):
        enforce("portable", "cuda")


def test_a_layer_that_onednn_breaks_is_refused_by_name() -> None:
    """The process would die of it, here too: so nothing but the refusal can be tried."""
    wide, narrow = nn.Conv2d(8, 4, 1, stride=2), nn.Conv2d(4, 4, 1, stride=2)
    refuse_broken(nn.ModuleDict({"shortcut": wide}), "cpu")
    refuse_broken(nn.ModuleDict({"shortcut": narrow}), "cuda")
    with pytest.raises(
        ModelError, match=r"^shortcut: found a 1 x 1 convolution with stride 2 on 4"
    ):
        refuse_broken(nn.ModuleDict({"shortcut": narrow}), "cpu")


@pytest.mark.parametrize("early", [True, False])
def test_numpy_that_was_loaded_before_the_profile_is_named(early: bool) -> None:
    code = "from lockstep.ground import profiles; profiles.enter('portable')\n"
    code = f"import numpy\n{code}" if early else f"{code}import numpy\n"
    code += "print(sorted(profiles.early()))"
    plain = {n: v for n, v in os.environ.items() if n not in profiles.variables("portable")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain, text=True, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, "['numpy']\n" if early else "[]\n"), done
