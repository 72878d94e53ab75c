"""Where bytes come from: one protocol (`base.Source`), one module per kind of source."""
