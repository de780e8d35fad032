"""Whether a build still is as good and as fast: measurements, baselines, verdicts."""
