"""The judgement: the finalists of a search on the report split, which no trial has seen, and what is handed over."""
