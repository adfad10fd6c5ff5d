"""Views as ONNX graphs around a model: `front` makes its input from uint8 canvases, `tails` sum its outputs by image.

The graphs are made at load, at opset 17; everything that differs between views is an input, one row a view. Needs the
`onnx` package (the extra `compile`), imported when a graph is made.
"""
