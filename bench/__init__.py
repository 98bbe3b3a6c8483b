"""How fast perdure is, as ratios within one run."""
