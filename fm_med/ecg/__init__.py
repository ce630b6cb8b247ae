"""ECGs: reading recordings, storing them, and the encoders that learn from them.

This module imports nothing, so that cohorts can be made and read without torch. Take what you need
from its files: `leads`, `records`, `storage`, `processor`, `augment`, `encoders`, ...
"""
