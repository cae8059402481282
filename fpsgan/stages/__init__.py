"""The stages of a job: public generators, frames in and frames out, each with settings and state of its own."""
