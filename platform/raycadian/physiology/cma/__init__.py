"""The Cortisol-Melatonin-Adiponectin model of glucose: equations, their fit, meal times, parameters in words.

Tensors in, tensors out; NumPy arrays in, NumPy arrays out (physiology/arrays.py).
"""
