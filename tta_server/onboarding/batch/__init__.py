"""Frees a batch axis that an ONNX file fixes at 1, where that can be shown to be right (`init --free-batch`)."""
