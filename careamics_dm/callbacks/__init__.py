"""What runs beside training: saving a model, pictures, scores, interruption."""

LAST = "last.ckpt"
"""To resume from, beside a model.ckpt that holds the best weights."""
