"""DICOM data sets as the appliance understands them: headers, volumes, outcomes. No network."""
