"""How the example workflows are laid out, and how their thumbnails are made."""
