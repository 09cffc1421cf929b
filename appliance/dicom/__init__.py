"""DICOM data sets as the appliance understands them: headers, volumes, outcomes. No network."""

import logging

# What these libraries log quotes attribute values, the patient's among them.
for _library in ("pydicom", "highdicom"):
    logging.getLogger(_library).addHandler(logging.NullHandler())
    logging.getLogger(_library).propagate = False
