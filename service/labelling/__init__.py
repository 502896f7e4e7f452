"""What labelling tools have in common: their labels and the model's classes, pictures named by a URL, masks."""
