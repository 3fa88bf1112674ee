"""The detectors of people, one file each; models/detect.py lists them."""
