"""Sources of facts read into one form, merged, and written as the store that ships beside a model."""
