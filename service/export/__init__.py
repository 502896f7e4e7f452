"""Predictions, regions and masks of many pictures as files that labelling tools import.

``records`` is what is kept of a picture, ``journal`` keeps it until all are done; ``coco``, ``label_studio`` and
``fiftyone`` write it, and ``about`` is what they are told besides.
"""
