"""Reports: what a run folder says, as one self-contained page or a few lines of Markdown. Reads run folders only."""
