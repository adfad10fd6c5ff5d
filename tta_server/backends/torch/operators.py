"""The operators that an exported program may have.

A name in a file is looked up in torch by getattr, so only names in this list reach it: operators on tensors that read
and write no files, make no random numbers and leave no memory uninitialised, and arithmetic on sizes.
"""

import re

_NAMES = """
abs absolute acos adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d add addcdiv addcmul addmm affine_grid_generator alias all amax amin aminmax any arange argmax argmin
argsort asin atan atan2 avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bitwise_and bitwise_left_shift bitwise_not
bitwise_or bitwise_right_shift bitwise_xor bmm broadcast_tensors broadcast_to cat cdist ceil celu channel_shuffle chunk
clamp clamp_max clamp_min clip clone col2im column_stack concat concatenate constant_pad_nd contiguous conv1d conv2d
conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution copy cos cosh cosine_similarity cross cummax
cummin cumprod cumsum detach diagonal diagonal_scatter div divide dot dropout einsum elu embedding eq erf exp exp2
expand expand_as expm1 eye fill flatten flip fliplr flipud floor floor_divide fmod frac full full_like gather ge gelu
glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gt hardshrink hardsigmoid hardswish
hardtanh hstack im2col index index_add index_put index_select inner instance_norm isfinite isinf isnan layer_norm le
leaky_relu lerp less less_equal lift_fresh lift_fresh_copy linalg_norm linalg_vector_norm linear linspace log log10
log1p log2 log_sigmoid log_softmax logical_and logical_not logical_or logical_xor logit logsumexp lt masked_fill
masked_scatter matmul max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
max_pool3d_with_indices maximum mean meshgrid min minimum mish mm moveaxis movedim mul multiply mv nan_to_num narrow
native_batch_norm native_channel_shuffle native_group_norm native_layer_norm ne neg negative new_full new_ones new_zeros
norm not_equal one_hot ones ones_like outer pad permute pixel_shuffle pixel_unshuffle positive pow prelu prod ravel
reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d reshape reshape_as rms_norm roll round rsqrt rsub scalar_tensor
scaled_dot_product_attention scatter scatter_add scatter_reduce select select_scatter selu sgn sigmoid sign silu sin
sinh slice slice_scatter softmax softplus softshrink sort split split_with_sizes sqrt square squeeze stack std sub
subtract sum swapaxes swapdims sym_constrain_range_for_size sym_numel sym_size sym_stride t take take_along_dim tan tanh
tensor_split tensordot threshold tile to topk transpose tril triu true_divide trunc type_as unbind unflatten unfold
unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
upsample_nearest3d upsample_trilinear3d var view view_as vstack where zero zeros zeros_like
_adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _assert_tensor_metadata _log_softmax
_native_batch_norm_legit_no_training _native_multi_head_attention _prelu_kernel _safe_softmax _softmax _to_copy
_transformer_encoder_layer_fwd _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d
"""
ATEN = frozenset(_NAMES.split())
"""Of torch.ops.aten, also with an underscore behind: those write into their first argument."""
_SIZES = """
_operator.add _operator.sub _operator.mul _operator.floordiv _operator.truediv _operator.mod _operator.pow _operator.neg
_operator.pos _operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge _operator.and_ _operator.or_
_operator.getitem torch.sym_not torch.sym_int torch.sym_float torch.sym_max torch.sym_min torch.sym_ite torch.sym_sqrt
math.trunc math.ceil math.floor
"""
OTHERS = frozenset(_SIZES.split())
"""Arithmetic on sizes."""
_TENSOR_OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+?)_?\.\w+", re.ASCII)


def is_allowed(target: str) -> bool:
    """Whether a program may have this operator, by the name that its file has for it."""
    if found := _TENSOR_OPERATOR.fullmatch(target):
        return found[1] in ATEN
    return target in OTHERS
