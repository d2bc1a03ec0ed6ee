"""The laboratory: data sets, training, calibration."""
