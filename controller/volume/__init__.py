"""Block stores, dirty bitmaps, the write-intent log and the volume that binds them."""
