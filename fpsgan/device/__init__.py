"""Interpolation entirely on a GPU: decoded planes are uploaded, planes of the generated frames are downloaded.

Plain torch, so that it can be tested on any CPU: `colour`, `exposure` and `overlays` are the functions of the same
names in `fpsgan.video.frame` and `fpsgan.stages`, batched and without synchronisation; `engine` combines them with the
optical flow and the network of `fpsgan.interpolator`.
"""
