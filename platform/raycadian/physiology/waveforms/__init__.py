"""ECG, PPG and arterial pressure: filters, repair, beats, quality of windows, on NumPy arrays."""
