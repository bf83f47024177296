"""Making a model smaller: fewer bits a weight, fewer weights."""
