"""The flows: two Glows and what is computed from them."""
