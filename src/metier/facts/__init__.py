"""Facts with their sources, as the offline runtime needs them: dates, names, and the store they are looked up in.

Only the standard library is used here: a model and its facts are asked without the workshop. What reads packages and
tables into facts, and writes the store, is `metier.data.facts`.
"""
