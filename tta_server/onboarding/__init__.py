"""From an ONNX file and what lies beside it to a draft of tta.yaml, each line of which has its evidence."""
