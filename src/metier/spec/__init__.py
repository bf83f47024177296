"""The job description: what is promised, in one strict TOML file."""
