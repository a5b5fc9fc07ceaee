"""Pages, charts and filmstrips that show what came of a run."""
