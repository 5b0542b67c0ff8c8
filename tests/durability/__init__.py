"""Galleries under kills, failing writes and flipped bits."""
