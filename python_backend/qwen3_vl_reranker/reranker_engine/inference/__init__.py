"""From a rerank request to scores: prompt, media decoding, batching. Knows the model, knows nothing of Triton."""
