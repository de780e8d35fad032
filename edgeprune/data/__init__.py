"""From a task and a general corpus to two token streams, knowing which rows were used."""
