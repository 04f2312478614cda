"""What a mixture says of each task: its influence, how sure its weight is, and a sentence that a person can act on."""
