"""DICOM series: files, geometry, one volume."""
