"""A fake OpenAI-compatible server, to rehearse a recipe without a model: `python -m pipeline.fake_server`."""
