"""Video in and out: numpy and ffmpeg, no torch."""
