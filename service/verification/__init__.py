"""Whether a map is true: hide what it calls important, hide as much elsewhere, compare. NumPy and Pillow."""
