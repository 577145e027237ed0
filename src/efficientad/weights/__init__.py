"""The shipped teachers: safetensors files, what they were made from inside each."""
