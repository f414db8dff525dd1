"""Settings of sd-scripts and of the kohya_ss GUI, read and written."""
