"""The formats that a mixture can be written in, a file for each trainer or kind of trainers."""
