"""A Label Studio ML backend: predictions for its projects, as regions of the controls that they have."""
