"""Who is told of each inspection."""
