"""The whole story of a run; read `pipeline` first."""
