"""How each mini weight file is made."""
