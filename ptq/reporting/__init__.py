"""What a run found out, for programs and for people."""
