"""KServe's V1 protocol under ``/v1/models``, which Vertex AI and TensorFlow Serving speak, too."""
