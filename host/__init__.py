"""The only rooms that know ComfyUI: they turn core functions into patches, families and loaders."""
