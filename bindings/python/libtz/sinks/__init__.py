"""Where bytes go: one protocol (`base.Sink`), one module per kind of target."""
