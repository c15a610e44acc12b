"""The client for every model behind OpenAI's chat protocol, and the local vLLM server.

`client.Client` is the entry point. From the outside in: client (retries), concurrency and rate_limit (when a
request is sent), http (one request), sse, response, dialects and logprobs (reading a response), http_errors
(what a refusal means), credentials (URLs and keys). Nothing is imported here: some of it is heavy.
"""
