"""Virtual patients with type 1 diabetes (UVA/Padova): meals, insulin and a sensor, on NumPy arrays."""
