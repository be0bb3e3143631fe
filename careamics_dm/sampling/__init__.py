"""Where patches lie: random, on a grid, held out for validation."""
