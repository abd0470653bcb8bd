"""What to do about operators that the graph does not hold, by their torch name."""

from __future__ import annotations

GENERAL = (
    "build it from convolution, linear, batch norm, ReLU and its relatives, arithmetic, concatenation, slicing, "
    "padding, pooling, reshaping, resizing and softmax, or leave that part outside the network"
)

_NORM = "use batch norm, which disappears into the convolution before it"
_ATTENTION = "attention is not supported; squeeze-excite or convolutions are"
_RECURRENT = "export one step with the state as part of the input, or use 1-D convolutions over the window"
_LOGITS = "return logits and let the loss apply it"
_CHANCE = "a network must give the same answer every time; draw random values outside it"
_ACTIVATION = "use ReLU, hard-swish or SiLU and train a few epochs more"
_PLACE = "write the result to a new tensor (torch.cat, torch.where outside the network) instead of into a part of one"
_IDS = "return logits; the class is chosen after the network"
_THREE = "use 1-D or 2-D layers, for example with the third axis moved to the channels"

HINTS: dict[str, str] = {
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"), _NORM),
    **dict.fromkeys(
        ("scaled_dot_product_attention", "bmm", "baddbmm", "einsum", "_native_multi_head_attention"), _ATTENTION
    ),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell"), _RECURRENT),
    **dict.fromkeys(("log_softmax", "logsigmoid", "log_sigmoid"), _LOGITS),
    **dict.fromkeys(
        ("gelu", "elu", "selu", "celu", "mish", "softplus", "softsign", "rrelu", "hardshrink"), _ACTIVATION
    ),
    **dict.fromkeys(
        ("rand", "randn", "rand_like", "randn_like", "bernoulli", "normal", "randint", "randperm"), _CHANCE
    ),
    **dict.fromkeys(("copy", "index_put", "scatter", "masked_fill", "fill", "zero"), _PLACE),
    **dict.fromkeys(("argmax", "argmin", "topk", "sort"), _IDS),
    **dict.fromkeys(("conv3d", "max_pool3d", "avg_pool3d", "adaptive_avg_pool3d"), _THREE),
    **dict.fromkeys(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        "use F.interpolate(scale_factor=2) followed by a convolution",
    ),
    **dict.fromkeys(
        ("_upsample_bilinear2d_aa", "upsample_bicubic2d", "upsample_trilinear3d"), "use nearest or bilinear"
    ),
    **dict.fromkeys(
        ("item", "_local_scalar_dense"), "keep values in tensors; a number read from one is not known here"
    ),
    **dict.fromkeys(("where", "gt", "lt", "ge", "le", "eq", "ne"), "use ReLU or clamp; comparisons are not supported"),
    **dict.fromkeys(
        ("index", "gather", "index_select", "take"), "use slices; a fixed order of channels suits a 1x1 convolution"
    ),
    **dict.fromkeys(("mean", "sum", "amax"), "reduce over all axes behind the channels"),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool1d_with_indices"), "use return_indices=False"),
    "embedding": "inputs are numbers; look embeddings up before the network",
    "max": "use amax over the spatial axes, or max pooling",
    "alpha_dropout": "use nn.Dropout",
    "stft": "compute spectra before the network",
}
