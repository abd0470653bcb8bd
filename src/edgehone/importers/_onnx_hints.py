"""What to do about ONNX operators that the graph does not hold."""

from __future__ import annotations

GENERAL = (
    "take the part that edgehone knows with onnx.utils.extract_model, or rebuild it from convolution, linear, batch "
    "norm, ReLU and its relatives, arithmetic, concatenation, slicing, padding, pooling, reshaping, resizing"
)

_FLOW = "export the one branch that is wanted, with loops written out, so that every input takes the same path"
_INTEGERS = "hand in the float network, or one with QuantizeLinear and DequantizeLinear around float operators (QDQ)"
_RECURRENT = "take the part before it with onnx.utils.extract_model, or use 1-D convolutions over the window"
_ATTENTION = "attention is not supported; squeeze-excite or convolutions are"
_NORM = "use batch norm, which disappears into the convolution before it"
_ACTIVATION = "use ReLU, hard-swish or SiLU and train a few epochs more"
_IDS = "end the network at the scores with onnx.utils.extract_model; the class is chosen after the network"
_CHANCE = "a network must give the same answer every time; draw random values outside it"
_WORDS = "inputs are numbers; look embeddings up before the network"
_SPECTRA = (
    "compute spectra before the network and hand in the rest (onnx.utils.extract_model); use batch norm, not layer norm"
)
_COMPARE = "use ReLU or Clip; comparisons and choices by value are not supported"
_LOGITS = "end the network at the scores before it, with onnx.utils.extract_model"

HINTS: dict[str, str] = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), _FLOW),
    **dict.fromkeys(
        (
            *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"),
            *("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearConcat"),
            *("QLinearGlobalAveragePool", "QLinearAveragePool", "QGemm", "DequantizeLinear", "QuantizeLinear"),
        ),
        _INTEGERS,
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _RECURRENT),
    **dict.fromkeys(("Attention", "Einsum", "MultiHeadAttention", "RotaryEmbedding"), _ATTENTION),
    **dict.fromkeys(
        (
            *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
            *("MeanVarianceNormalization", "LpNormalization", "LRN", "SkipLayerNormalization"),
        ),
        _NORM,
    ),
    **dict.fromkeys(
        ("Gelu", "Elu", "Selu", "Celu", "Mish", "Softplus", "Softsign", "ThresholdedRelu", "Erf"), _ACTIVATION
    ),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "NonZero", "Unique"), _IDS),
    **dict.fromkeys(("Random", "RandomNormal", "RandomUniform", "Bernoulli", "Multinomial"), _CHANCE),
    **dict.fromkeys(("GatherND", "OneHot", "StringNormalizer", "TfIdfVectorizer", "LabelEncoder"), _WORDS),
    **dict.fromkeys(("STFT", "DFT", "MelWeightMatrix", "Sqrt", "Log", "Exp", "Abs", "Reciprocal"), _SPECTRA),
    **dict.fromkeys(
        ("Where", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or", "Sign", "IsNaN"),
        _COMPARE,
    ),
    **dict.fromkeys(("LogSoftmax", "Hardmax"), _LOGITS),
    "Scatter": "write results to a new tensor with Concat",
    "ScatterND": "write results to a new tensor with Concat",
    "ScatterElements": "write results to a new tensor with Concat",
}
