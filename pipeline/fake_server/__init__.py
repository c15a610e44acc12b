"""A fake OpenAI-compatible server for rehearsing a recipe: `python -m pipeline.fake_server`."""
