"""What each kind of node makes of tensors that hold several images: where its outputs hold them, or why it can't.

A kind without a rule is refused, since it may mix images.
"""

from collections.abc import Mapping

from tta_server.onboarding.batch import along, moves, products
from tta_server.onboarding.batch.step import Rule


def _kinds(text: str) -> list[str]:
    return text.split()


ELEMENTWISE = _kinds(
    """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf
    Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual
    Log Max Mean Min Mish Mod Mul Neg Not Or Pow PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh
    Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor QuantizeLinear DequantizeLinear
    """
)
BY_IMAGE = _kinds(
    """
    AveragePool Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization
    InstanceNormalization LpPool LRN MaxPool QLinearConv SpaceToDepth
    """
)
REDUCE = _kinds(
    """
    ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare
    """
)
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, along.elementwise),
    **dict.fromkeys(BY_IMAGE, along.by_image),
    **dict.fromkeys(REDUCE, along.reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), along.softmax),
    **dict.fromkeys(("Resize", "Upsample"), moves.resize),
    "BatchNormalization": along.batch_normalization,
    "Concat": moves.concat,
    "CumSum": along.cumsum,
    "Einsum": products.einsum,
    "Expand": moves.expand,
    "Flatten": moves.reshape,
    "Gather": moves.gather,
    "GatherElements": moves.gather_elements,
    "Gemm": products.gemm,
    "GridSample": moves.grid_sample,
    "LayerNormalization": along.layer_normalization,
    "LpNormalization": along.keeps(along.axis_of(-1)),
    "MatMul": products.matmul,
    "Pad": moves.pad,
    "Reshape": moves.reshape,
    "Slice": moves.slices,
    "Split": along.keeps(along.axis_of(0)),
    "Squeeze": moves.squeeze,
    "Tile": moves.tile,
    "TopK": along.keeps(along.axis_of(-1)),
    "Transpose": moves.transpose,
    "Unsqueeze": moves.unsqueeze,
}
"""Kind of node -> rule."""
