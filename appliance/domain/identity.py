"""How this implementation names itself, in files and on the wire (PS3.7 D.3.3.2)."""

from __future__ import annotations

IMPLEMENTATION_CLASS_UID = "1.2.826.0.1.3680043.8.498.46716391582303467207311485041"
"""Under the root that pydicom gives its users: PS3.5 B.2 forbids a UUID-derived UID here."""

IMPLEMENTATION_VERSION_NAME = "EDGE_INF_0_1"
