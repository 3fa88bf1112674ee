"""The only room that knows ComfyUI: patches, wrappers, model families, loaders."""
