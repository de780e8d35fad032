"""The ground floor: errors, files, progress, the machine. Imports nothing of edgeprune."""
