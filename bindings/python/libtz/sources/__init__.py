"""Where bytes come from: one seam (`base.Source`), one module for each kind of place."""
