"""The paper's figures from one's own runs; drawing needs the extra `figures`."""
