"""The one client for every model behind OpenAI's chat protocol; `client.Client` is what others use.

From the outside in: client (which try, when, where), pacing and limits (how much at once), transport (one
request over HTTP), events, replies and logprobs (what an answer says), refusals (what an error means),
endpoints (addresses and keys). Nothing is imported here: some of it is heavy.
"""
