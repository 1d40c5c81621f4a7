"""DICOM slides: headers, series and frames."""
