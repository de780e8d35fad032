"""File formats: metadata about zeros, packing, readers of GGUF and ONNX."""
