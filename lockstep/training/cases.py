"""Small computations, of which the self-test knows the bits: one for each thing models are made of.

Each case is a function without arguments that returns tensors. Those that depend on the CPU stand
here as well: they are tried when the golden values are made, and left out of them.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lockstep.ground.generators import reseed

Case = Callable[[], Any]
_TABLE = (17, 33)
_PICTURES = (2, 6, 9, 9)


@cache
def _mixed(count: int, salt: int) -> torch.Tensor:
    """Whole numbers that look random, 0 to 2^24 - 1; exact on any machine."""
    mixed = torch.arange(1, count + 1) * 2654435761 + salt * 40503
    mixed = (mixed ^ (mixed >> 15)) & 0xFFFFFF
    mixed = mixed * 0x45D9F3B
    return (mixed ^ (mixed >> 16)) & 0xFFFFFF


def numbers(*shape: int, salt: int = 0) -> torch.Tensor:
    """Float32 values from -2 to 2 with all 24 bits in use."""
    count = torch.Size(shape).numel()
    return ((_mixed(count, salt) - (1 << 23)).float() * 2.0**-22).reshape(shape)


def positive(*shape: int, salt: int = 0) -> torch.Tensor:
    """Float32 values above 0, up to 2."""
    count = torch.Size(shape).numel()
    return ((_mixed(count, salt) + 1).float() * 2.0**-23).reshape(shape)


def _between(count: int) -> torch.Tensor:
    """Values well within -1 to 1, also when taken three times."""
    return numbers(count) / 7


def whole(below: int, *shape: int, salt: int = 0) -> torch.Tensor:
    """Whole numbers from 0 up to ``below``."""
    return (_mixed(torch.Size(shape).numel(), salt) % below).reshape(shape)


def _forward_and_back(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> list[Any]:
    """What a function gives, and its gradient for each of the inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    result = function(*leaves)
    return [result, *torch.autograd.grad(_one_number(result), leaves)]


def _one_number(result: torch.Tensor) -> torch.Tensor:
    """A sum in which each value counts differently, to go back from. (A gradient that is handed to
    autograd would be checked by way of torch.fx, which takes a third of a second to import.)"""
    return (result * numbers(*result.shape, salt=9)).sum()


def _back(
    function: Callable[..., torch.Tensor], *shapes: tuple[int, ...], last: bool = False
) -> Case:
    """A case of a function and its gradients, for inputs of these shapes, or with channels last."""

    def run() -> Any:
        inputs = [numbers(*shape, salt=salt) for salt, shape in enumerate(shapes or (_TABLE,))]
        for i, x in enumerate(inputs):
            if last and x.dim() == 4:
                inputs[i] = x.contiguous(memory_format=torch.channels_last)
        return _forward_and_back(function, *inputs)

    return run


def _each(
    function: Callable[[torch.Tensor], torch.Tensor],
    values: Callable[[int], torch.Tensor] = numbers,
) -> Case:
    """A function of single numbers, at many of them: few are rounded differently."""
    return lambda: _forward_and_back(function, values(20_011) * 3)


def _normed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, torch.zeros(6), torch.ones(6), weight, bias, True)


def _drawn(function: Callable[[], Any]) -> Case:
    def run() -> Any:
        reseed(42)
        return function()

    return run


def _fused(name: str) -> Case:
    """Two steps of a fused update rule."""

    def run() -> Any:
        values, gradient, steps = numbers(1027), numbers(1027, salt=1), torch.zeros(())
        first, second = torch.zeros(1027), torch.zeros(1027)
        rate: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "maximize": False}
        beta = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False}
        sgd = {"momentum": 0.9, "dampening": 0.0, "nesterov": True, "is_first_step": False}
        rule = getattr(torch, f"_fused_{name}_")
        for _ in range(2):
            steps += 1
            if name == "sgd":
                rule([values], [gradient], [first], **rate, **sgd)
            elif name == "adagrad":
                more = {"lr_decay": 0.0, "eps": 1e-8}
                rule([values], [gradient], [first], [steps], **rate, **more)
            else:
                rule([values], [gradient], [first], [second], [], [steps], **rate, **beta)
        return values, first, second

    return run


def _plain_adam() -> Any:
    """The rule as it stands in textbooks, with a square root by itself."""
    mean, square = numbers(1027).mul_(0.1), numbers(1027, salt=1).square()
    return numbers(1027, salt=2).addcdiv_(mean, square.sqrt().add_(1e-8), value=-0.01)


def _clipped() -> Any:
    gradients = [numbers(40, 9), numbers(40, salt=1)]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, torch.clamp(1 / (norm + 1e-6), max=1.0))
    flat = numbers(1027)
    length = float(torch.linalg.vector_norm(flat))
    return norm, gradients, flat.mul_(1 / length), torch.tensor(length)


def _layer(make: Callable[[], nn.Module], *shape: int) -> Case:
    """A layer of torch.nn in training, forward and backward, with its own initial weights."""

    def run() -> Any:
        reseed(42)
        layer = make()
        x = numbers(*shape).requires_grad_()
        result = layer(x)
        result = result[0] if isinstance(result, tuple) else result
        _one_number(result).backward()
        return result, x.grad, [p.grad for p in layer.parameters()], layer.state_dict()

    return run


def _attention(**how: Any) -> Case:
    return lambda: _forward_and_back(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **how),
        *(numbers(2, 2, 17, 16, salt=salt) for salt in range(3)),
    )


def _accumulated() -> Any:
    """Sums at places given by an index, some of them more than once."""
    index, source = whole(13, 50), numbers(50, 7)
    index_put = numbers(13, 7).index_put_((index,), source, accumulate=True)
    scattered = numbers(13, 7).scatter_add_(0, index[:, None].expand(50, 7), source)
    return index_put, scattered, numbers(13, 7).index_add_(0, index, source)


def _memory() -> Any:
    """Tensors made, filled and copied."""
    x = numbers(7, 9)
    made = [torch.zeros(3), torch.ones(3), torch.full((3,), 0.1), torch.zeros_like(x)]
    made += [torch.ones_like(x), torch.full_like(x, 0.3), torch.arange(0, 1, 0.1)]
    made += [torch.empty(5).fill_(0.7), torch.empty_like(x).copy_(x.flip(0)), x.new_zeros(3)]
    made += [
        torch.linspace(0, 1, 11),
        x.clone().zero_(),
        torch.eye(3),
        torch.tensor(x[0, 0].item()),
    ]
    made += [x.t().contiguous(), x.double(), x.double().float(), x.long(), x.long().float()]
    made += [x.new_empty(2).fill_(1), torch.empty_strided((2, 3), (1, 2)).fill_(0.5)]
    return made


def _arithmetic() -> Any:
    x, y = numbers(31, 33), numbers(31, 33, salt=1)
    new = [x + y, x - y, x * y, x / y, x + 0.1, x * 0.1, x / 3.0, 1 - x, 0.1 / x, -x, x.abs()]
    new += [x.maximum(y), x.minimum(y), x.clamp(-1, 0.3), x.sign(), x.floor(), x.round(), x % 0.7]
    new += [x.addcmul(x, y, value=0.3), x.addcdiv(x, y, value=0.3), x.lerp(y, 0.3), x.lerp(y, y)]
    new += [torch.add(x, y, alpha=0.3), torch.add(x, y, out=torch.empty_like(x))]
    new += [torch.mul(x, y, out=torch.empty_like(x)), torch.mul(x, 0.1, out=torch.empty_like(x))]
    new += [x < y, x <= 0.1, x == y, x > 0, x >= y, x != 0, x.isfinite(), x.isnan().logical_not()]
    changed = x.clone()
    changed.add_(y).mul_(y).sub_(0.1).div_(0.3).add_(1).mul_(0.9).sub_(y).div_(y).neg_()
    changed.addcmul_(x, y).addcdiv_(x, y).lerp_(y, 0.1).clamp_(-3, 3).abs_()
    return new, changed


def _in_place() -> Any:
    """Functions that overwrite what they are given."""
    names = "relu_ sigmoid_ tanh_ exp_ square_ reciprocal_ sin_ cos_ tril_ triu_ round_ floor_"
    functions = [getattr(torch.Tensor, name) for name in names.split()]
    activations = (F.silu, F.hardtanh, F.leaky_relu, F.elu)
    functions += [partial(function, inplace=True) for function in activations]
    functions += [
        lambda x: x.clamp_min_(0.1).cumsum_(1),
        lambda x: x.clamp_max_(0.1).copy_(numbers(33)),
        lambda x: x.scatter_(0, whole(17, 3, 33), 0.3).masked_fill_(x > 0, 0.3),
        lambda x: x.pow_(2).log1p_().add_(0.1).log_(),
        lambda x: x.abs_().rsqrt_(),
    ]
    return [function(numbers(*_TABLE)) for function in functions]


def _lists() -> Any:
    """Several tensors at once, as torch.optim and gradient clipping take them."""
    x, y = [numbers(5, 7), numbers(33)], [numbers(5, 7, salt=1), numbers(33, salt=1)]
    torch._foreach_add_(x, y, alpha=0.3)
    torch._foreach_mul_(x, 0.9)
    torch._foreach_lerp_(x, y, 0.3)
    torch._foreach_addcmul_(x, y, y, 0.1)
    torch._foreach_addcdiv_(x, y, [tensor.abs() + 1 for tensor in y], -0.01)
    torch._foreach_div_(x, 0.7)
    return x, torch._foreach_norm(x), torch._foreach_add(x, y), torch._foreach_mul(x, y)


def _rearranged() -> Any:
    x, index = numbers(6, 8), whole(6, 5)
    chosen = x > 0
    new = [torch.cat([x, x]), torch.stack([x, x]), x.index_select(0, index), x.tril(), x.triu()]
    new += [x.masked_fill(chosen, 0.1), x.gather(0, whole(6, 5, 8)), x[index], x.roll(1, 0)]
    new += [x.flip(1), x.repeat(2, 1), x.repeat_interleave(2, 0), x[chosen], F.one_hot(index)]
    new += [torch.where(chosen, x, 0.1), torch.where(chosen, x, -x), F.pad(x, (1, 2), value=0.1)]
    new += [x.scatter(0, whole(6, 5, 8), 0.1), x.clone().index_fill_(0, index, 1)]
    x[1:3] = 0.5
    return new, x


_PADDED = partial(F.conv2d, padding=1)
_STRIDED = partial(F.conv2d, stride=2, padding=1)
_OF_ANY = "abs exp exp2 expm1 sigmoid tanh sin cos tan sinh cosh erf relu atan"
_ABOVE_ZERO = "log log1p log2 log10 reciprocal rsqrt sqrt"
_BETWEEN = "asin acos erfinv"  # of what is between -1 and 1
_ACTIVATIONS = "gelu silu softplus logsigmoid elu leaky_relu mish hardswish hardsigmoid relu6"

CASES: dict[str, Case] = {
    "convolution of one channel": _back(_PADDED, (4, 1, 8, 8), (16, 1, 3, 3), (16,)),
    "convolution": _back(_PADDED, (2, 16, 9, 9), (24, 16, 3, 3), (24,)),
    "one channel, channels last": _back(_PADDED, (4, 1, 8, 8), (16, 1, 3, 3), (16,), last=True),
    "convolution, channels last": _back(_PADDED, (2, 16, 9, 9), (24, 16, 3, 3), last=True),
    "convolution with stride": _back(_STRIDED, (2, 3, 13, 13), (8, 3, 5, 5), (8,)),
    "stride, channels last": _back(_STRIDED, (2, 16, 9, 9), (8, 16, 3, 3), last=True),
    "convolution 1 x 1": _back(F.conv2d, (2, 16, 7, 7), (24, 16, 1, 1)),
    "convolution in groups": _back(partial(F.conv2d, groups=2), (2, 8, 9, 9), (16, 4, 3, 3), (16,)),
    "convolution by depth": _back(partial(F.conv2d, groups=8), (2, 8, 9, 9), (8, 1, 3, 3), (8,)),
    "convolution with dilation": _back(
        partial(F.conv2d, dilation=2), (2, 4, 11, 11), (5, 4, 3, 3), (5,)
    ),
    "convolution, transposed": _back(
        partial(F.conv_transpose2d, stride=2), (2, 8, 5, 5), (8, 6, 2, 2), (6,)
    ),
    "convolution in one dimension": _back(F.conv1d, (2, 8, 29), (12, 8, 5), (12,)),
    "convolution in three": _back(F.conv3d, (1, 3, 5, 6, 7), (4, 3, 3, 3, 3), (4,)),
    "matrix products": lambda: [
        numbers(n, k) @ numbers(k, m, salt=1)
        for n, k, m in ((3, 5, 7), (32, 65, 33), (64, 128, 10))
    ],
    "matrix product with bias": lambda: [
        torch.addmm(numbers(33), numbers(17, 65), numbers(65, 33)),
        torch.addmm(numbers(17, 33), numbers(17, 65), numbers(65, 33), beta=0.5, alpha=0.3),
    ],
    "batched products": lambda: [
        numbers(4, 9, 33).bmm(numbers(4, 33, 17, salt=1)),
        torch.baddbmm(numbers(4, 9, 17), numbers(4, 9, 33), numbers(4, 33, 17, salt=1), alpha=0.3),
    ],
    "products with vectors": lambda: [
        numbers(17, 65) @ numbers(65),
        numbers(65) @ numbers(65, salt=1),
        torch.outer(numbers(9), numbers(7)),
    ],
    "matrix product in float64": lambda: numbers(17, 65).double() @ numbers(65, 9).double(),
    "einsum": lambda: torch.einsum("bij,bkj->bik", numbers(3, 5, 16), numbers(3, 7, 16)),
    "linear": _back(F.linear, _TABLE, (9, 33), (9,)),
    "linear, sequences": _back(F.linear, (2, 5, 33), (9, 33), (9,)),
    "linear without bias": _back(F.linear, _TABLE, (9, 33)),
    "batch norm": _back(_normed, _PICTURES, (6,), (6,)),
    "batch norm, channels last": _back(_normed, _PICTURES, (6,), (6,), last=True),
    "batch norm in use": _back(
        lambda x, w, b: F.batch_norm(x, numbers(6), positive(6), w, b), _PICTURES, (6,), (6,)
    ),
    "batch norm as a layer": _layer(lambda: nn.BatchNorm1d(9), 16, 9),
    "layer norm": _back(lambda x, w, b: F.layer_norm(x, (33,), w, b), _TABLE, (33,), (33,)),
    "group norm": _back(lambda x, w, b: F.group_norm(x, 3, w, b), _PICTURES, (6,), (6,)),
    "instance norm": _back(F.instance_norm, _PICTURES),
    "RMS norm": _back(lambda x, w: F.rms_norm(x, (33,), w), _TABLE, (33,)),
    "unit length": _back(F.normalize),
    "softmax": _back(lambda x: x.softmax(1)),
    "log softmax": _back(lambda x: x.log_softmax(1)),
    "softmax over the first axis": _back(lambda x: x.softmax(0)),
    "log of summed exp": _back(lambda x: x.logsumexp(1)),
    "cross-entropy": _back(lambda x: F.cross_entropy(x, whole(33, 17))),
    "cross-entropy with smoothing": _back(
        lambda x: F.cross_entropy(x, whole(33, 17), label_smoothing=0.1)
    ),
    "binary cross-entropy": _back(
        lambda x: F.binary_cross_entropy_with_logits(x, positive(17, 33) / 2)
    ),
    "squared error": _back(F.mse_loss, _TABLE, _TABLE),
    "absolute error": _back(F.l1_loss, _TABLE, _TABLE),
    "absolute error, smooth": _back(F.smooth_l1_loss, _TABLE, _TABLE),
    "absolute error, Huber's": _back(F.huber_loss, _TABLE, _TABLE),
    "divergence": _back(
        lambda x: F.kl_div(x.log_softmax(1), positive(17, 33), reduction="batchmean")
    ),
    "embedding": _back(lambda w: F.embedding(whole(13, 5, 9), w, padding_idx=2), (13, 16)),
    "bag of embeddings": _back(
        lambda w: F.embedding_bag(whole(13, 5, 9), w, mode="mean"), (13, 16)
    ),
    "attention": _attention(),
    "attention, causal": _attention(is_causal=True),
    "attention with mask": lambda: _attention(attn_mask=numbers(17, 17) > 0)(),
    "transformer layer": _layer(
        lambda: nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True), 2, 9, 16
    ),
    "transformer layer, GELU, norm first": _layer(
        lambda: nn.TransformerEncoderLayer(
            16, 2, 32, 0.1, F.gelu, batch_first=True, norm_first=True
        ),
        *(2, 9, 16),
    ),
    "GRU": _layer(lambda: nn.GRU(9, 8, batch_first=True), 2, 5, 9),
    "LSTM": _layer(lambda: nn.LSTM(9, 8, batch_first=True), 2, 5, 9),
    "largest of a window": _back(lambda x: F.max_pool2d(x, 3, 2, 1), _PICTURES),
    "largest, channels last": _back(lambda x: F.max_pool2d(x, 2), _PICTURES, last=True),
    "mean of a window": _back(lambda x: F.avg_pool2d(x, 3, 2, 1), _PICTURES),
    "mean of a picture": _back(lambda x: F.adaptive_avg_pool2d(x, 1), _PICTURES),
    "adaptive mean": _back(lambda x: F.adaptive_avg_pool2d(x, 4), _PICTURES),
    "enlarged": _back(lambda x: F.interpolate(x, (13, 15), mode="bilinear"), _PICTURES),
    "enlarged by copies": _back(lambda x: F.interpolate(x, (13, 15)), _PICTURES),
    "sums": _back(lambda x: x.sum(0)[:17] + x.sum(1) + x.sum()),
    "means": _back(lambda x: x.mean(0)[:17] + x.mean(1) + x.mean()),
    "variances": _back(lambda x: x.var(0)[:17] + x.var(1) + x.var()),
    "deviations": _back(lambda x: x.std(0)[:17] + x.std(1)),
    "lengths": _back(lambda x: torch.linalg.vector_norm(x, dim=1)),
    "extremes": _back(lambda x: x.amax(1) + x.amin(1) + x.max(1)[0] + x.min(1)[0] + x.max()),
    "positions": lambda: [
        [x.argmax(1), x.sort(1), x.topk(5), x.any(), x.all(1)] for x in [numbers(*_TABLE)]
    ],
    "product": _back(lambda x: x.prod(1)),
    "running sum": _back(lambda x: x.cumsum(1)),
    "running product": _back(lambda x: x.cumprod(1)),
    "sums by index": _accumulated,
    "memory": _memory,
    "arithmetic": _arithmetic,
    "in place": _in_place,
    "lists": _lists,
    "rearranged": _rearranged,
    "rearranged, with gradient": _back(
        lambda x: torch.cat([x.gather(0, whole(17, 5, 33)), x[whole(17, 6)], x.roll(1, 0) * x[:1]])
        + F.pad(x[:, 1:], (0, 1)).index_select(0, whole(17, 28))
    ),
    "dropout": lambda: _drawn(
        lambda: _forward_and_back(lambda x: F.dropout(x, 0.3), numbers(*_TABLE))
    )(),
    "normal": _drawn(lambda: [torch.randn(7), torch.randn(1027), torch.empty(99).normal_(1, 2)]),
    "uniform": _drawn(lambda: [torch.rand(1027), torch.empty(99).uniform_(-0.1, 0.3)]),
    "of a generator": _drawn(
        lambda: [draw(99, generator=torch.default_generator) for draw in (torch.rand, torch.randn)]
    ),
    "bernoulli": _drawn(
        lambda: [torch.empty(1027).bernoulli_(0.3), torch.bernoulli(positive(99) / 2)]
    ),
    "whole numbers by chance": _drawn(lambda: [torch.randint(9, (99,)), torch.randperm(99)]),
    "multinomial": _drawn(lambda: torch.multinomial(positive(33), 9, replacement=True)),
    "exponential": _drawn(lambda: torch.empty(1027).exponential_()),
    "normal, truncated": _drawn(lambda: nn.init.trunc_normal_(torch.empty(1027))),
    "initial weights": _drawn(
        lambda: [
            fill(torch.empty(9, 33))
            for fill in (nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_normal_)
        ]
    ),
    "SGD, fused": _fused("sgd"),
    "Adam, fused": _fused("adam"),
    "AdamW, fused": _fused("adamw"),
    "Adagrad, fused": _fused("adagrad"),
    "Adam, not fused": _plain_adam,
    "gradients clipped by norm": _clipped,
    **{name: _each(getattr(torch, name)) for name in _OF_ANY.split()},
    **{name: _each(getattr(torch, name), positive) for name in _ABOVE_ZERO.split()},
    **{name: _each(getattr(torch, name), _between) for name in _BETWEEN.split()},
    **{name: _each(getattr(F, name)) for name in _ACTIVATIONS.split()},
    "gelu by tanh": _each(lambda x: F.gelu(x, approximate="tanh")),
    "power 2": _each(lambda x: x**2),
    "power 3": _each(lambda x: x**3),
    "power 0.5": _each(lambda x: x**0.5, positive),
}
