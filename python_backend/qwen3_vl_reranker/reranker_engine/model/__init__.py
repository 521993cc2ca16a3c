"""The weights of a Qwen3-VL checkpoint and their forward pass; nothing about prompts, media files or Triton."""
