"""The Open Inference Protocol (KServe V2) under ``/v2``, with Triton's extensions."""
