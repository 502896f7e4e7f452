"""The commands of ``camserve``, a module each; every one has ``add``, which gives the parser its flags.

Heavy imports stand inside the functions that need them, so that ``serve`` answers ``/livez`` within a second.
"""
