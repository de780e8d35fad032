"""``python -m edgeprune``, which is what torchrun and `accelerate launch` start."""

from edgeprune.cli import main

main()
