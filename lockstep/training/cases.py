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


def _layer_of_two(make: Callable[[], nn.Module], *shapes: tuple[int, ...]) -> Case:
    """A layer of two inputs, forward and backward."""

    def run() -> Any:
        reseed(42)
        layer = make()
        inputs = [numbers(*shape, salt=salt) for salt, shape in enumerate(shapes)]
        return _forward_and_back(layer, *inputs), layer.state_dict()

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


def _compared() -> Any:
    """Which is larger, and what follows from it: exact, but with kernels of its own."""
    x, y = numbers(*_TABLE), numbers(*_TABLE, salt=1)
    new = [x > y, x >= y, x < y, x <= y, x == y, x != y, x.median(1), x.mode(1), x.unique()]
    new += [x.aminmax(), x.cummax(1), x.cummin(1), x.kthvalue(3, 1), x.fmod(0.7), x.clamp(min=y)]
    edges = numbers(5).sort()[0]
    new += [torch.bucketize(x, edges), torch.searchsorted(edges, x), x.histc(5)]
    new += [torch.bincount(whole(5, 20), positive(20)), x.nansum(1), x.clone().ceil_()]
    return new


def _packed() -> Any:
    """Sequences of several lengths, as a recurrent layer takes them."""
    x = numbers(3, 5, 9).requires_grad_()
    lengths = torch.tensor([5, 3, 2])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    padded, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    reseed(42)
    last: torch.Tensor = nn.GRU(9, 8, batch_first=True)(packed)[1]
    _one_number(last).backward()
    return padded, last, x.grad


def _diagonals() -> Any:
    return [
        _back(torch.diag, (5, 5))(),
        _back(torch.diag_embed, (4, 5))(),
        _back(lambda x: x.diagonal(), (5, 5))(),
        _back(torch.trace, (5, 5))(),
        _back(lambda x: x.rot90(1, (2, 3)), _PICTURES)(),
    ]


def _chosen_and_put() -> Any:
    """Values taken and put where a mask says."""
    mask = numbers(17, 33, salt=5) > 0
    return [
        _back(lambda x: x.masked_select(mask))(),
        _back(lambda x: torch.zeros(_TABLE).masked_scatter(mask, x))(),
        _back(lambda x, y: torch.linalg.cross(x, y), (5, 3), (5, 3))(),
    ]


def _reduced_at_places(how: str) -> Case:
    index = whole(13, 17, 1).expand(17, 33)
    return _back(lambda x: torch.zeros(13, 33).scatter_reduce(0, index, x, how))


def _solved(function: Callable[..., torch.Tensor], size: int, *columns: int) -> Any:
    """A function of a well-conditioned matrix, and of others with so many columns."""
    matrix = numbers(size, size) + 2 * size * torch.eye(size)
    return _forward_and_back(function, matrix, *(numbers(size, number) for number in columns))


def _in_circles(function: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> Case:
    """A function whose values are complex, and the gradient of their real and imaginary parts."""
    return _back(lambda x: torch.view_as_real(function(x)), shape)


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


def _counted() -> Any:
    """Numbers of steps, as torch.optim counts them."""
    steps = [torch.zeros(()), torch.ones(3)]
    torch._foreach_add_(steps, 1)
    torch._foreach_sub_(steps, 0.1)
    return steps


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
_OF_ANY = "abs exp exp2 expm1 sigmoid tanh sin cos tan sinh cosh erf relu atan " + (
    "erfc asinh sinc deg2rad trunc ceil frac nan_to_num"
)
_ABOVE_ZERO = "log log1p log2 log10 reciprocal rsqrt sqrt lgamma"
_BETWEEN = "asin acos erfinv atanh"  # of what is between -1 and 1
_ACTIVATIONS = "gelu silu softplus logsigmoid elu leaky_relu mish hardswish hardsigmoid relu6 " + (
    "celu selu hardshrink softshrink softsign"
)
_SPACE = (2, 3, 4, 5, 4)
_MANY = (151, 133)  # few values are rounded differently
_LINE = (2, 6, 9)

CASES: dict[str, Case] = {
    "convolution of one channel": _back(_PADDED, (4, 1, 8, 8), (16, 1, 3, 3), (16,)),
    "convolution": _back(_PADDED, (2, 16, 9, 9), (24, 16, 3, 3), (24,)),
    "one channel, channels last": _back(_PADDED, (4, 1, 8, 8), (16, 1, 3, 3), (16,), last=True),
    "convolution, channels last": _back(_PADDED, (2, 16, 9, 9), (24, 16, 3, 3), last=True),
    "convolution with stride": _back(_STRIDED, (2, 3, 13, 13), (8, 3, 5, 5), (8,)),
    "stride, channels last": _back(_STRIDED, (2, 16, 9, 9), (8, 16, 3, 3), last=True),
    "convolution 1 x 1": _back(F.conv2d, (2, 16, 7, 7), (24, 16, 1, 1)),
    "convolution 1 x 1 with stride": _back(
        partial(F.conv2d, stride=2), (2, 16, 8, 8), (24, 16, 1, 1), last=True
    ),
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
    "convolution in one dimension, transposed": _back(
        partial(F.conv_transpose1d, stride=2), (2, 8, 9), (8, 6, 4)
    ),
    "convolution in three, transposed": _back(
        partial(F.conv_transpose3d, stride=2), (1, 4, 3, 3, 3), (4, 3, 2, 2, 2)
    ),
    "convolution at mirrored edges": _layer(
        lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), *_PICTURES
    ),
    "convolution at repeated edges": _layer(
        lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="replicate"), *_PICTURES
    ),
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
    "cross-entropy of pictures": _back(
        lambda x: F.cross_entropy(x, whole(5, 2, 9, 9)), (2, 5, 9, 9)
    ),
    "cross-entropy of pictures, weighted": _back(
        lambda x: F.cross_entropy(x, whole(5, 2, 9, 9), positive(5)), (2, 5, 9, 9), last=True
    ),
    "cross-entropy of tokens": _back(
        lambda x: F.cross_entropy(x.mT, whole(11, 2, 7), ignore_index=0, reduction="none"),
        (2, 7, 11),
    ),
    "cross-entropy with smoothing": _back(
        lambda x: F.cross_entropy(x, whole(33, 17), label_smoothing=0.1)
    ),
    "binary cross-entropy": _back(
        lambda x: F.binary_cross_entropy_with_logits(x, positive(17, 33) / 2)
    ),
    "binary cross-entropy of probabilities": _back(
        lambda x: F.binary_cross_entropy(x.sigmoid(), positive(17, 33) / 2)
    ),
    "margin": _back(lambda x: F.multi_margin_loss(x, whole(33, 17))),
    "alignment (CTC)": _back(
        lambda x: F.ctc_loss(
            x.log_softmax(2), whole(10, 2, 4) + 1, torch.tensor([12, 12]), torch.tensor([4, 3])
        ),
        (12, 2, 11),
    ),
    "cosine": _back(F.cosine_similarity, _TABLE, _TABLE),
    "distances": _back(F.pairwise_distance, _TABLE, _TABLE),
    "distances of few": _back(torch.cdist, (9, 5), (7, 5)),
    "distances of many": _back(torch.cdist, (40, 5), (37, 5)),
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
    "bag of embeddings, weighted": _back(
        lambda w, by: F.embedding_bag(whole(13, 5, 9), w, mode="sum", per_sample_weights=by),
        *((13, 16), (5, 9)),
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
    "GRU, packed": _packed,
    "largest of a window": _back(lambda x: F.max_pool2d(x, 3, 2, 1), _PICTURES),
    "largest, channels last": _back(lambda x: F.max_pool2d(x, 2), _PICTURES, last=True),
    "mean of a window": _back(lambda x: F.avg_pool2d(x, 3, 2, 1), _PICTURES),
    "mean of a picture": _back(lambda x: F.adaptive_avg_pool2d(x, 1), _PICTURES),
    "adaptive mean": _back(lambda x: F.adaptive_avg_pool2d(x, 4), _PICTURES),
    "largest, adaptive": _back(lambda x: F.adaptive_max_pool2d(x, 4), _PICTURES),
    "largest in three dimensions": _back(lambda x: F.max_pool3d(x, 2), _SPACE),
    "mean in three dimensions": _back(lambda x: F.avg_pool3d(x, 2), _SPACE),
    "adaptive mean in three": _back(lambda x: F.adaptive_avg_pool3d(x, 2), _SPACE),
    "enlarged": _back(lambda x: F.interpolate(x, (13, 15), mode="bilinear"), _PICTURES),
    "enlarged by copies": _back(lambda x: F.interpolate(x, (13, 15)), _PICTURES),
    "enlarged smoothly": _back(lambda x: F.interpolate(x, (13, 15), mode="bicubic"), _PICTURES),
    "reduced smoothly": _back(
        lambda x: F.interpolate(x, (4, 5), mode="bilinear", antialias=True), _PICTURES
    ),
    "enlarged in one dimension": _back(lambda x: F.interpolate(x, 13, mode="linear"), _LINE),
    "enlarged in three": _back(lambda x: F.interpolate(x, (7, 7, 7), mode="trilinear"), _SPACE),
    "enlarged by copies, in one": _back(lambda x: F.interpolate(x, 13), _LINE),
    "enlarged by copies, in three": _back(lambda x: F.interpolate(x, (7, 7, 7)), _SPACE),
    "sampled at places": _back(
        lambda x, at: F.grid_sample(x, at / 2, align_corners=False), _PICTURES, (2, 4, 4, 2)
    ),
    "places of an affine map": _back(
        lambda x: F.affine_grid(x, [2, 3, 5, 5], align_corners=False), (2, 2, 3)
    ),
    "pixels shuffled": _back(lambda x: F.pixel_shuffle(x, 2), (2, 8, 5, 5)),
    "patches": _back(lambda x: F.fold(F.unfold(x, 3, padding=1), (9, 9), 3, padding=1), _PICTURES),
    "windows": _back(lambda x: x.unfold(2, 4, 2), _LINE),
    "edges in one dimension": _back(
        lambda x: F.pad(x, (2, 2), mode="reflect") + F.pad(x, (2, 2), mode="replicate"), _LINE
    ),
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
    "gated units": _back(lambda x: F.glu(x), (4, 32)),
    "slopes that are learned": _back(F.prelu, _PICTURES, (6,)),
    "slopes by chance": _drawn(_back(lambda x: F.rrelu(x, training=True))),
    "threshold": _back(lambda x: F.threshold(x, 0.1, 0.0)),
    "logit": _each(lambda x: torch.logit(x / 7 + 0.5)),
    "powers of a number": _each(lambda x: 2**x),
    "powers by pairs": _back(lambda x, y: (x.abs() + 0.1).pow(y), _MANY, _MANY),
    "power 4": _each(lambda x: x**4),
    "power -1": _each(lambda x: x**-1, positive),
    "power 1.5": _each(lambda x: x**1.5, positive),
    "angles": _back(torch.atan2, _MANY, _MANY),
    "logs of added exps": _back(torch.logaddexp, _MANY, _MANY),
    "logs of cumulated exps": _back(lambda x: x.logcumsumexp(1)),
    "length of two sides": _back(torch.hypot, _MANY, _MANY),
    "softmax in float64": _back(lambda x: x.double().softmax(1).float()),
    "numbers in float16 and bfloat16": lambda: [
        numbers(99).half().float(),
        numbers(99).bfloat16().float(),
    ],
    "gelu by tanh": _each(lambda x: F.gelu(x, approximate="tanh")),
    "steps counted": _counted,
    "comparisons": _compared,
    "diagonals": _diagonals,
    "masks": _chosen_and_put,
    "means at places": _reduced_at_places("mean"),
    "largest at places": _reduced_at_places("amax"),
    "spread and mean": _back(lambda x: torch.stack(torch.var_mean(x, 1) + torch.std_mean(x, 1))),
    "sums of products": _back(torch.addbmm, (3, 5), (2, 3, 4), (2, 4, 5)),
    "sum of a product": _back(torch.addmv, (3,), (3, 4), (4,)),
    "products of three": _layer_of_two(lambda: nn.Bilinear(5, 6, 4), (3, 5), (3, 6)),
    "weights of norm 1": _layer(
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(9, 5)), 4, 9
    ),
    "weights by spectrum": _layer(
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(9, 5)), 4, 9
    ),
    "norm across channels": _back(lambda x: F.local_response_norm(x, 3), _PICTURES),
    "dropout that keeps the spread": _drawn(
        lambda: _forward_and_back(lambda x: F.alpha_dropout(x, 0.2, True), numbers(*_TABLE))
    ),
    "noise like a tensor": _drawn(
        lambda: [torch.randn_like(numbers(99)), torch.rand_like(numbers(99))]
    ),
    "inverse": lambda: [_solved(torch.linalg.inv, size) for size in (5, 70)],
    "equations": lambda: [_solved(torch.linalg.solve, size, 3) for size in (5, 70)],
    "determinant": lambda: [_solved(lambda x: torch.linalg.slogdet(x)[1], n) for n in (5, 70)],
    "Cholesky": lambda: [_solved(lambda x: torch.linalg.cholesky(x @ x.mT), n) for n in (5, 70)],
    "triangular equations": lambda: [
        _solved(lambda x, y: torch.linalg.solve_triangular(x.tril(), y, upper=False), n, 3)
        for n in (5, 70)
    ],
    "eigenvalues": lambda: [_solved(lambda x: torch.linalg.eigvalsh(x @ x.mT), n) for n in (5, 70)],
    "singular values": lambda: [_solved(torch.linalg.svdvals, n) for n in (5, 70)],
    "orthogonal factor": lambda: [_solved(lambda x: torch.linalg.qr(x)[0], n) for n in (5, 70)],
    "quantile": _back(lambda x: x.quantile(0.3, 1)),
    "orthogonal weights": _drawn(
        lambda: [nn.init.orthogonal_(torch.empty(n, n - 1)) for n in (5, 70)]
    ),
    "Fourier": _in_circles(torch.fft.rfft, 2, 16),
    "Fourier of windows": _in_circles(
        lambda x: torch.stft(x, 16, return_complex=True, window=torch.hann_window(16)), 2, 64
    ),
    "turned numbers": _in_circles(
        lambda x: torch.view_as_complex(x) * torch.polar(torch.ones(5), numbers(5)), 3, 5, 2
    ),
    "real and imaginary parts": lambda: torch.view_as_real(torch.complex(numbers(9), numbers(9))),
    "size of complex numbers": _back(lambda x: torch.view_as_complex(x).abs(), (3, 5, 2)),
    "power 2": _each(lambda x: x**2),
    "power 3": _each(lambda x: x**3),
    "power 0.5": _each(lambda x: x**0.5, positive),
}
