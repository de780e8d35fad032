"""Sparse weights inside llama.cpp; chat and serving."""
