"""Many builds: ablations and sweeps."""
