"""File formats: sparsity metadata, packing, and readers of GGUF and ONNX."""
