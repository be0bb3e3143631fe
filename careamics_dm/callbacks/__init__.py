"""What runs beside training: saving a model, pictures, scores, interruption."""
