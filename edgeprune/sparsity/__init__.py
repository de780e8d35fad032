"""What a sparse model is: where its weights come from, what is written about it, how it is read."""
