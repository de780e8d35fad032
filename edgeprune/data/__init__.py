"""Turn a task and a general corpus into two token streams, and record which rows were used."""
