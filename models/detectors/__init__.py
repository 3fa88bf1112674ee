"""The detectors of people, one file and one line each. The first one is what Detect Pose uses."""

from . import mediapipe_landmarks as mediapipe_landmarks
