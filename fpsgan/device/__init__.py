"""A pair of frames as a whole on a graphics card: decoded planes go up, planes of the frames between come down.

Plain torch, so that any CPU can test it to the last pixel: `colour`, `exposure` and `overlays` are the functions of the
same names of `fpsgan.video.frame` and `fpsgan.stages`, batched and without waiting for the device; `engine` puts them
together with the optical flow and the network of `fpsgan.interpolator`.
"""
