"""Figures and attacks on the shipped model, computed by judges that no erasing method sees."""
