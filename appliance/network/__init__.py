"""DICOM on the wire: the only importer of pynetdicom."""
