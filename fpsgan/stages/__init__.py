"""The stages of a job: generators that take frames and give frames, each with its own settings, counters and state."""
