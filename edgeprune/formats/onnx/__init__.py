"""ONNX: a reader, external data, and the packed form."""
