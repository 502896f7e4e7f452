"""TorchServe's inference API and, to be read, its management API."""
