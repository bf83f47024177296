"""What each step of a build does in its folder: where the stages of the road meet files."""
