"""From tiles to images in files."""
