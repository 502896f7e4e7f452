"""What a CVAT server asks of the host of its functions: which there are, and what they make of a picture.

CVAT calls Nuclio's dashboard there. Its routes, bodies and headers are spoken here, so that a CVAT server which is
told this address has a model's classes as tags, rectangles, polygons, masks, and as a tool that is clicked with.
"""
