"""GGUF: a bounded reader, and the packed form."""
