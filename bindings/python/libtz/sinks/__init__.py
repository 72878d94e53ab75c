"""Where bytes go: one seam (`base.Sink`), one module for each kind of place."""
